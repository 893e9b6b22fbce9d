"""A GGUF export from beginning to end, asked back by transformers and, where it is installed, by llama.cpp."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish import log
from burnish.errors import ModelError
from burnish.export.beside import report_of, tell, write_modelfile, write_papers
from burnish.export.generation import sampling_of, set_generation, stop_ids
from burnish.export.gguf_families import family_of
from burnish.export.gguf_file import (
    OWN_KINDS,
    QUANTIZER,
    bytes_needed,
    quantize_further,
    require_kind,
    tensor_count,
    write_gguf,
)
from burnish.export.gguf_tokenizer import puts_bos_first, vocabulary
from burnish.export.hf import TOLERANCES as MERGED
from burnish.export.llamacpp import LlamaCpp
from burnish.export.standard import Standard, ask
from burnish.export.subject import FILES_BESIDE, Order, Subject, Wish
from burnish.export.target import Target
from burnish.export.verify import Trial, compare, require_near
from burnish.generate import Sampling, generate
from burnish.generate.llamacpp import is_installed
from burnish.model.load import Loaded, load_tokenizer
from burnish.model.merge import cast_weights
from burnish.model.quiet import quiet_transformers
from burnish.template import ChatTemplate
from burnish.template.messages import to_messages

TOLERANCES = {"f32": 1e-4, "bf16": 1e-2, "f16": 1e-2, "q8_0": 2e-2}
"""Mean KL divergence from the run, in nats, above which a file is refused, weights read by transformers."""
_TOLERANCE_OF_OTHERS = 0.5
LOGPROB_TOLERANCES = {"f32": 2e-3, "bf16": 0.1, "f16": 0.05, "q8_0": 0.3}
"""Mean difference of log-probabilities of the ten likeliest tokens, in nats, that llama.cpp may have.

llama.cpp rounds activations too: to the kind of the file's matrices.
"""
_LOGPROB_TOLERANCE_OF_OTHERS = 1.0
_WHOLE = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}  # kinds that lose nothing
_LIKELIEST, _PLACES, _ANSWER = 10, 4, 24
_NOT_READ = {"gemma"}  # families that transformers cannot read from GGUF
_READ_WHOLE = {"llama", "mistral", "qwen2"}  # and those whose config it reads, unless positions are stretched


@dataclass(frozen=True)
class Asked:
    """What llama.cpp made of the file, against the merged model in float32.

    `mean_logprob`, `max_logprob`: differences of the log-probabilities of the ten likeliest tokens, in nats, over
    `places` prompts. `greedy`: how many of the conversations it answers with the same tokens, of `conversations`.
    `renders`: whether its own Jinja renders the conversations to the same text.
    """

    places: int
    mean_logprob: float
    max_logprob: float
    greedy: int
    conversations: int
    renders: bool

    def __str__(self) -> str:
        return (
            f"log-probabilities differ by {self.mean_logprob:.2g} nats in the mean, {self.max_logprob:.2g} at most; "
            f"the same {_ANSWER} greedy tokens for {self.greedy} of {self.conversations} conversations"
        )


def export_gguf(wish: Wish, order: Order, kind: str | None = None) -> dict[str, Any]:
    """Merge a model's adapters and write it as one GGUF file; returns the report.

    Args:
        kind: of numbers: f32, bf16, f16, q8_0, or one that llama.cpp's quantizer makes; None for that of the merged
            weights, which loses nothing.
    Raises:
        BurnishError: what the user can mend; the target is then as it was.
    """
    if kind is not None:
        require_kind(kind)
    if kind == "f32" and wish.dtype == "auto":
        wish = replace(wish, dtype="float32")  # the file has room for every bit of a merged weight
    subject = Subject(wish, log.say)
    kind = kind or _WHOLE[subject.dtype]
    _check(subject)
    target = Target(order.to, overwrite=order.overwrite, inputs=subject.inputs)
    target.require_room(bytes_needed(subject.parameters, kind) + FILES_BESIDE)
    run = ask(subject)
    loaded = subject.load(subject.dtype, merge=True)
    template = subject.template(loaded)
    with target.written() as aside:
        file = aside / f"{target.folder.name}-{kind}.gguf"
        _write(loaded, template, file, kind, subject)
        set_generation(loaded.model, template, order.sampling)
        drawn = sampling_of(loaded.model.generation_config)
        stops = stop_ids(template) if template else []
        merged, answers = _answers(loaded, run.trial, stops, subject.compute_dtype)
        folded, config = loaded.merged, loaded.model.config.get_text_config()
        del loaded
        gc.collect()
        report = _checked(subject, target, file, kind, run, merged, answers, stops, config)
        report |= {"merged": [Path(each).name for each in folded], "sampling": drawn, "file": file.name}
        adds_bos = puts_bos_first(run.trial.tokenizer, run.trial.template)
        write_modelfile(aside, template, drawn, from_=f"./{file.name}", adds_bos=adds_bos)
        write_papers(aside, subject, report)
    tell(target, report)
    return report


def _check(subject: Subject) -> None:
    """What can be told before any weights are read."""
    family_of(subject.config.get_text_config())
    if subject.reward_head is not None:
        raise ModelError(
            "a reward model has a head that GGUF has no place for", at=subject.wish.name, fix="use --format hf"
        )
    tokenizer = load_tokenizer(subject.source, trust_remote_code=subject.wish.trust_remote_code, **subject.wish.hub)
    vocabulary(tokenizer, max(len(tokenizer), subject.config.get_text_config().vocab_size))


def _write(loaded: Loaded, template: ChatTemplate | None, file: Path, kind: str, subject: Subject) -> None:
    """Write the file, by way of a whole one where llama.cpp's quantizer makes its kind."""
    words = vocabulary(loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0])
    first, place = (kind, file) if kind in OWN_KINDS else (_WHOLE[subject.dtype], file.with_name("whole.gguf"))
    with log.progress(f"writing {first}", tensor_count(loaded.model)) as bar:
        name = Path(subject.wish.name).name
        for line in write_gguf(
            *(loaded.model, words, loaded.tokenizer, template, place, first), name=name, on_tensor=bar.advance
        ):
            log.note(line)
    if place != file:
        log.say(f"{QUANTIZER}: {kind}")
        quantize_further(place, file, kind)
        place.unlink()


def _answers(
    loaded: Loaded, trial: Trial, stops: list[int], dtype: torch.dtype
) -> tuple[list[Tensor], list[list[int]]]:
    """The merged model's logits on the conversations, and its greedy answers."""
    cast_weights(loaded.model, dtype)
    sampling = Sampling(max_new_tokens=_ANSWER)
    done = generate(loaded.model, trial.prompts, stop_ids=stops, sampling=sampling, batch_size=1)
    return trial.logits(loaded.model), [each.ids for each in done]


def _checked(
    subject: Subject,
    target: Target,
    file: Path,
    kind: str,
    run: Standard,
    merged: list[Tensor],
    answers: list[list[int]],
    stops: list[int],
    config: Any,
) -> dict[str, Any]:
    """Read the file back; returns the report. Raises ModelError where it is not what the run is."""
    difference, tolerance = None, max(TOLERANCES.get(kind, _TOLERANCE_OF_OTHERS), MERGED[subject.dtype])
    if config.model_type in _NOT_READ:
        log.note("transformers cannot read this family from GGUF: its weights are not compared there")
    else:
        model = _read_by_transformers(file, subject.compute_dtype, _config_to_read_with(config))
        read = run.trial.logits(model.to(subject.device))
        difference = compare(run.logits, read, run.base_logits)
        require_near(difference, tolerance, "the GGUF file", log.note)
    report = report_of(subject, target, f"gguf {kind}", difference, tolerance)
    if not is_installed():
        log.note("llama.cpp is not installed here (pip install 'burnish[llamacpp]'), so it was not asked")
        return report
    found = _asked_llamacpp(file, run.trial, merged, answers, stops)
    allowed = LOGPROB_TOLERANCES.get(kind, _LOGPROB_TOLERANCE_OF_OTHERS)
    if found.mean_logprob > allowed:
        raise ModelError(
            f"llama.cpp does not answer as the merged model does: {found}",
            at=f"tolerance: {allowed:g} nats in the mean",
            fix="nothing was exported; please report this with the model's name",
        )
    if not found.renders:
        log.note("llama.cpp's own Jinja renders the chat template to another text: use the Modelfile, or send ids")
    return report | {"llama.cpp": {"tolerance": allowed, **asdict(found)}}


def _config_to_read_with(config: Any) -> Any:
    """The config that transformers cannot read from a file by itself; None where it can. llama.cpp reads it all."""
    plain = config.rope_parameters.get("rope_type", "default") == "default"
    plain = plain and not getattr(config, "attention_bias", False)
    return None if config.model_type in _READ_WHOLE and plain else config


def _read_by_transformers(file: Path, dtype: torch.dtype, config: Any) -> Any:
    from transformers import AutoModelForCausalLM, GgufConfig

    options = {"gguf_file": file.name, "quantization_config": GgufConfig(dequantize=True), "dtype": dtype}
    if config is not None:
        options["config"] = config
    try:
        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(file.parent, **options).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"transformers cannot read the file: {str(error).strip().splitlines()[0][:300]}",
            at=str(file),
            fix="nothing was exported; please report this with the model's name",
        ) from error


def _asked_llamacpp(
    file: Path, trial: Trial, merged: list[Tensor], answers: list[list[int]], stops: list[int]
) -> Asked:
    """Raises ModelError where llama.cpp tokenizes a conversation to other ids."""
    longest = max(len(row) for row in [*trial.rows, *trial.prompts]) + _ANSWER
    program = LlamaCpp(file, longest=max(256, longest), threads=torch.get_num_threads())
    for text, ids in zip(trial.rendered(), trial.prompts, strict=False):
        found = program.tokenize(text)
        if found != ids:
            raise ModelError(
                f"llama.cpp tokenizes a conversation differently: {ids[:40]} became {found[:40]}",
                at="tokenizer of the GGUF file",
                fix="nothing was exported; please report this with the model's name",
            )
    differences = []
    for row, logits in zip(trial.rows, merged, strict=True):
        for place in sorted({len(row) * part // _PLACES - 1 for part in range(1, _PLACES + 1)} - {-1}):
            wanted = logits[place].log_softmax(-1)
            likeliest = wanted.topk(min(_LIKELIEST, len(wanted))).indices.tolist()
            found_here = program.logprobs(row[: place + 1], 4 * _LIKELIEST)
            differences += [abs(float(wanted[n]) - found_here[n]) for n in likeliest if n in found_here]
    same = [program.continued(p, _ANSWER, stops) == a for p, a in zip(trial.prompts, answers, strict=True)]
    bos = trial.tokenizer.bos_token or ""
    renders = all(
        program.render(to_messages(talk[:-1])) in (text, text.removeprefix(bos))
        for text, talk in zip(trial.rendered(), trial.talks, strict=False)
    )
    mean = sum(differences) / len(differences)
    return Asked(len(trial.rows) * _PLACES, mean, max(differences), sum(same), len(same), renders)
