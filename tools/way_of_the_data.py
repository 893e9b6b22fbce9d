"""One conversation, followed from a file to a gradient, printed at each station. Called by tools/docs.py."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

ROW = {
    "instruction": "Turn this into one polite sentence.",
    "input": "send the invoice",
    "output": "Could you please send me the invoice?",
}
OTHER = {"instruction": "Say hello in Chinese.", "output": "你好！"}


def block(text: str, kind: str = "text") -> str:
    return f"```{kind}\n{text}\n```\n"


def render(model_folder: Path) -> str:
    """The page, as Markdown. Every block below a heading is what the code gave when this ran."""
    import torch

    from burnish.batch.collate import collate_packed
    from burnish.batch.truncation import Limits, fit
    from burnish.data.load import load_samples
    from burnish.kernels.attention import packed_rows
    from burnish.model.adapter import attach_lora
    from burnish.model.load import load_model
    from burnish.model.source import ModelSource
    from burnish.template import load_template
    from burnish.train.figures import read
    from burnish.train.forward import SupervisedLoss

    parts = [
        "# The way of the data\n\n"
        "One row of a file, followed to a gradient. Each section is one function; the text in the boxes is what it "
        "gave when this page was made.\n"
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "rows.json").write_text(json.dumps([ROW, OTHER], ensure_ascii=False), encoding="utf-8")
        (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json"}}), encoding="utf-8")
        parts.append("\n## 1. A row\n\n`rows.json`, named by `dataset_info.json` as `mine`:\n\n")
        parts.append(block(json.dumps(ROW, indent=1), "json"))
        loaded = load_samples(["mine"], folder)
    sample = loaded.samples[0]
    parts.append(
        "\n## 2. Read and convert: `data.load.load_samples`\n\n"
        "A row becomes a record: plain Python, frozen, and it knows where it came from.\n\n"
    )
    turns = "\n".join(f"  {turn.role}: {turn.content!r}" for turn in sample.record.turns)
    parts.append(
        block(f"Sample of dataset {sample.dataset!r}, row {sample.row}: {type(sample.record).__name__}\n{turns}")
    )

    torch.set_num_threads(1)
    source = ModelSource("smollm2-135m-instruct", str(model_folder))
    loaded_model = load_model(source, dtype=torch.float32)
    template = load_template(loaded_model.tokenizer, extra_stop_ids=loaded_model.stop_ids)
    pieces = template.pieces(sample.record)
    parts.append(
        "\n## 3. Render: `template.ChatTemplate.pieces`\n\n"
        "The tokenizer's own chat template writes the text. It is cut where an answer begins and ends, and each "
        "piece is tokenized by itself: the answer comes after exactly the ids that inference will have before it.\n\n"
    )
    shown = [f"{p.kind:<7}{len(p.ids):>3} tokens  {template.decode(p.ids, special=True)!r}" for p in pieces]
    parts.append(block("\n".join(shown)))

    example = fit(pieces, Limits(2048)).example
    assert example is not None
    parts.append(
        "\n## 4. Label and fit: `batch.truncation.fit`\n\n"
        "Labels are the ids where the model is to learn and -100 elsewhere. The stop token is learnt; what the "
        "template writes after it is not. The last tokens:\n\n"
    )
    lines = [f"{'id':>6} {'label':>6}  token"]
    for token, label in list(zip(example.input_ids, example.labels, strict=True))[-13:]:
        lines.append(f"{token:>6} {label:>6}  {template.decode([token], special=True)!r}")
    parts.append(block("\n".join(lines)))

    second = fit(template.pieces(loaded.samples[1].record), Limits(2048)).example
    assert second is not None
    batch = collate_packed([example, second])
    parts.append(
        "\n## 5. Pack: `batch.collate.collate_packed`\n\n"
        "Whole documents lie one after another in one row, without padding. Positions restart with each document, "
        "and attention stays inside it. The shift by one happens here and nowhere else: place *p* predicts "
        "the token at *p* + 1.\n\n"
    )
    seam = len(example.input_ids)
    parts.append(
        block(
            f"input_ids         {list(batch.input_ids.shape)}\n"
            f"document_lengths  {list(batch.document_lengths)}\n"
            f"position_ids      … {batch.position_ids[0, seam - 2 : seam + 3].tolist()} … "
            "where the second document begins\n"
            f"loss_positions    {len(batch.loss_positions)} places: {batch.loss_positions.tolist()}\n"
            f"loss_targets      {template.decode(batch.loss_targets.tolist(), special=True)!r}"
        )
    )

    with torch.no_grad(), packed_rows(loaded_model.model):
        total, count = read(SupervisedLoss(loaded_model.model, packed=True)(batch))["loss"]
    parts.append(
        "\n## 6. Sum the loss: `train.forward.SupervisedLoss`\n\n"
        "The output head runs at the supervised places only. A loss is a sum and a count; the loop divides once, "
        "over all micro-batches and all ranks.\n\n"
    )
    parts.append(block(f"total {total:.1f} nats over {count:.0f} tokens, {total / count:.2f} each"))

    model, targets = attach_lora(loaded_model.model, rank=8)
    with packed_rows(model.get_base_model()):
        loss = SupervisedLoss(model, packed=True)(batch)
        (loss.total / loss.count).backward()
    with_gradient = [p for p in model.parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in with_gradient]).norm()
    parts.append(
        "\n## 7. One gradient: `train.loop.Loop.step`\n\n"
        f"LoRA on {', '.join(targets)}. The frozen weights get no gradient.\n\n"
    )
    parts.append(block(f"{len(with_gradient)} adapter tensors with a gradient, norm {norm:.1f}"))
    parts.append(
        "\n## 8. What is left behind\n\n"
        "`runs/` writes what happened (`run.json`, `metrics.jsonl`, `loss.png`), `model.save` the adapter and the "
        "tokenizer with this very template, and `generate/` starts from `ChatTemplate.prompt_ids`, the same object "
        "that rendered the training row.\n"
    )
    return "".join(parts)
