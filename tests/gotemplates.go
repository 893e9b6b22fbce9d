// Reads [{"template", "messages": [{"role", "content"}]}] and writes the rendered texts, as JSON.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

type asked struct {
	Template string
	Messages []*message
}

func main() {
	var all []asked
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
		panic(err)
	}
	texts := make([]string, len(all))
	for place, one := range all {
		parsed, err := template.New("").Option("missingkey=zero").Parse(one.Template)
		if err != nil {
			panic(err)
		}
		var text strings.Builder
		if err := parsed.Execute(&text, map[string]any{"Messages": one.Messages}); err != nil {
			panic(err)
		}
		texts[place] = text.String()
	}
	if err := json.NewEncoder(os.Stdout).Encode(texts); err != nil {
		panic(err)
	}
}
