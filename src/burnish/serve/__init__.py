"""An HTTP server that speaks OpenAI's protocol: parse, ask the engine, render."""
