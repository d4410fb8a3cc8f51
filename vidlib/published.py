"""VideoMAE's weights from and to files, by the authors' names and by those of `transformers`.

Knows names and files, no model: a state is a dict of parameters by name.
"""

import argparse
import json
import os
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoints, settings
from .settings import UserError

State = dict[str, Tensor]
LICENCE = (
    "{}: not made by vidlib. The published VideoMAE weights are licensed CC-BY-NC 4.0: "
    "for non-commercial use, naming their authors"
)
EXTRA = "published weights need two more packages: pip install 'vidlib[hub]'"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("model.safetensors", "pytorch_model.bin")
KIND = "VideoMAE"  # in a weight file of our own loops

# config.json's names -> ours; what is absent there has the published base model's value
FIELDS = {
    "image_size": "size", "num_frames": "frames", "patch_size": "patch", "tubelet_size": "tubelet",
    "hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads",
    "intermediate_size": "hidden", "decoder_hidden_size": "decoder_width",
    "decoder_num_hidden_layers": "decoder_depth", "decoder_num_attention_heads": "decoder_heads",
    "decoder_intermediate_size": "decoder_hidden", "norm_pix_loss": "norm_pix",
    "use_mean_pooling": "mean_pool", "qv_bias": "qv_bias", "layer_norm_eps": "eps",
}  # fmt: skip
SAMPLED = ("stride", "fps", "background")  # of a config, too, in config.json under "vidlib"
# how `transformers` begins a name, and how the authors do; the same for the rest of it
BEGINNINGS = (
    ("videomae.embeddings.patch_embeddings.projection.", "encoder.patch_embed.proj."),
    ("videomae.encoder.layer.", "encoder.blocks."),
    ("videomae.layernorm.", "encoder.norm."),
    ("decoder.decoder_layers.", "decoder.blocks."),
    ("classifier.", "head."),
)
RESTS = (
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".attention.output.dense.", ".attn.proj."),
    (".attention.attention.q_bias", ".attn.q_bias"),
    (".attention.attention.v_bias", ".attn.v_bias"),
    (".intermediate.dense.", ".mlp.fc1."),
    (".output.dense.", ".mlp.fc2."),
)
LACKS = {
    "head.weight": "pre-training weights, without a classification head: fine-tune it first, or "
    "name a fine-tuned model",
    "decoder.head.weight": "no decoder: name a pre-trained model, not a fine-tuned one",
}
QKV = ".attn.qkv.weight"
PARTS = tuple(f".attention.attention.{part}.weight" for part in ("query", "key", "value"))


def from_transformers(state: State) -> State:
    """Parameters by the names of `transformers` -> by the authors', as our models have them."""
    out: State = {}
    for name, value in state.items():
        if name.endswith("position_embeddings"):
            continue  # computed, not learned
        if name.startswith(("embeddings.", "encoder.layer.", "layernorm.")):
            name = f"videomae.{name}"  # an encoder alone
        # what its newer versions call two of the biases
        name = name.replace(".query.bias", ".q_bias").replace(".value.bias", ".v_bias")
        for theirs, ours in BEGINNINGS:
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        for theirs, ours in RESTS:
            name = name.replace(theirs, ours)
        out[name] = value
    for name in [n for n in out if n.endswith(PARTS[0])]:
        stem = name.removesuffix(PARTS[0])
        out[stem + QKV] = torch.cat([out.pop(stem + part) for part in PARTS])
    return out


def to_transformers(state: State) -> State:
    """A model's parameters by the names that the published files of `transformers` have."""
    bare = "patch_embed.proj.weight" in state  # an encoder alone
    out: State = {}
    for name, value in state.items():
        name = f"encoder.{name}" if bare else name
        for theirs, ours in BEGINNINGS:
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
        for theirs, ours in RESTS:
            name = name.replace(ours, theirs)
        name = name.removeprefix("videomae.") if bare else name
        if name.endswith(QKV):
            stem = name.removesuffix(QKV)
            out |= {stem + p: v.clone() for p, v in zip(PARTS, value.chunk(3), strict=True)}
        else:
            out[name] = value
    return out


def from_authors(state: State) -> State:
    """Parameters of the authors' files -> as our models have them: a fine-tuned file lacks the
    `encoder.` that a pre-trained one has."""
    ours = ("patch_embed.", "blocks.", "norm.")
    return {f"encoder.{n}" if n.startswith(ours) else n: v for n, v in state.items()}


# --- config.json ---------------------------------------------------------------------------------


def shape(about: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """A config.json's content -> the fields of `tubelets.Config`. UserError for another kind of
    model, or a VideoMAE that ours is not."""
    if about.get("model_type") != "videomae":
        raise UserError(
            f"{source} is a {about.get('model_type', 'model of unknown kind')}, not a VideoMAE: "
            "name another model"
        )
    about = {"qv_bias": about.get("qkv_bias", True)} | about  # its older name
    found = {ours: about[theirs] for theirs, ours in FIELDS.items() if theirs in about}
    for name in ("size", "patch"):  # one number, or height and width
        if isinstance(value := found.get(name), list):
            found[name] = value[0]
            if len(set(value)) != 1:
                raise UserError(f"{source}: only square pictures and patches, not {value}")
    if about.get("num_channels", 3) != 3 or about.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{source}: only models of RGB with GELU can be read")
    labels = {int(k): str(v) for k, v in (about.get("id2label") or {}).items()}
    found["classes"] = tuple(labels[k] for k in sorted(labels))
    own = about.get("vidlib", {})
    return found | {name: own[name] for name in SAMPLED if name in own}


def describe(config: Any, kind: str) -> dict[str, Any]:
    """A `tubelets.Config` -> what config.json holds; `kind` is transformers' name of the model."""
    values = asdict(config)
    labels = dict(enumerate(values["classes"]))
    return {
        "model_type": "videomae", "architectures": [kind],
        **{theirs: values[ours] for theirs, ours in FIELDS.items()},
        "id2label": labels, "label2id": {label: k for k, label in labels.items()},
        # how films are sampled, and the sign that the weights are one's own
        "vidlib": {name: values[name] for name in SAMPLED},
    }  # fmt: skip


# --- files ---------------------------------------------------------------------------------------
KINDS = {"VideoMAE": "VideoMAEModel", "Pretrainer": "VideoMAEForPreTraining",
         "Classifier": "VideoMAEForVideoClassification"}  # fmt: skip


def read(source: str | Path) -> tuple[State, dict[str, Any] | None]:
    """Weights by the names of our models, and the fields of their `tubelets.Config` (None beside a
    file of the authors, which does not say); `source` as in `videomae`'s `from_pretrained`. Warns
    of the licence unless the weights are one's own. UserError when they cannot be had or read."""
    path, fields = Path(source), None
    if path.is_file():
        content = _load(path)
        if content.get("kind") == KIND:
            return content["state"], content["config"]
        state = content
    else:
        if path.is_dir():
            about_file, file = _first(path, "config.json"), _first(path, *FILES)
        elif HUB_ID.fullmatch(str(source)):
            about_file, file = _fetch(str(source), "config.json"), _fetch(str(source), *FILES)
        else:
            raise UserError(f"{source}: no such folder, no id of the Hub (owner/name): check it")
        about = _json(about_file)
        fields, state = shape(about, source), _load(file)
    if fields is None or "vidlib" not in about:
        warnings.warn(LICENCE.format(source), stacklevel=3)
    for inner in ("model", "module", "state_dict"):  # beside what else a training keeps
        state = state[inner] if isinstance(state.get(inner), dict) else state
    state = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    theirs = any(".layer." in n or "decoder_layers" in n for n in state)
    return (from_transformers(state) if theirs else from_authors(state)), fields


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no {' and no '.join(names)}: name a folder with a VideoMAE")


def _fetch(repo: str, *names: str) -> Path:
    """The first of these files that the Hub has of a model, downloaded once into its own cache."""
    # read where the package is first imported: what else runs here is nothing to tell a server
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, utils
    except ImportError as error:
        raise UserError(EXTRA) from error
    for kept in (True, False):  # what was downloaded before needs no network
        for name in names:
            try:
                if not kept:  # fails at once; the download would try for half a minute
                    get_hf_file_metadata(hf_hub_url(repo, name))
                return Path(hf_hub_download(repo, name, local_files_only=kept))
            except utils.EntryNotFoundError:
                continue
            except utils.RepositoryNotFoundError as error:
                raise UserError(
                    f"{repo}: neither a folder nor a model of the Hub: check the id"
                ) from error
            except Exception as error:  # of its HTTP library, which changes between versions
                reason = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"{repo} is not in the Hub's cache and the Hub cannot be reached ({reason}): "
                    "check the network, or name a folder with the model's files"
                ) from error
    raise UserError(f"{repo} on the Hub has no {' and no '.join(names)}: name another model")


def _json(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: copy or download it again") from error
    return about if isinstance(about, dict) else {}


def _load(file: Path) -> dict[str, Any]:
    """A file's content; nothing in it is run."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        # the authors' files also hold the options of their training: a Namespace, plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(EXTRA) from error
    except Exception as error:  # damaged files raise a dozen kinds of errors
        raise UserError(
            f"{file} is damaged or no weight file: copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no VideoMAE's weights: name another file")
    return content


def check(state: State, needed: str, source: str | Path) -> None:
    """UserError in plain words when the part of a model that has the parameter `needed` is not
    there."""
    if needed and needed not in state:
        raise UserError(f"{source} has {LACKS[needed]}")


def fitting(model: nn.Module, state: State, source: str | Path) -> State:
    """The parameters that the model has; others (a decoder, a head) may be left over. UserError
    when some are missing, of another size, or not finite."""
    if "encoder" not in dict(model.named_children()):  # an encoder alone
        prefix = "encoder."
        state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    wanted = model.state_dict()
    if missing := wanted.keys() - state.keys():
        raise UserError(
            f"{source} lacks {len(missing)} parameters of the model that it should be, "
            f"{min(missing)} among them: name another"
        )
    for name, value in wanted.items():
        if value.shape != state[name].shape:
            raise UserError(f"{source}: {name} is {tuple(state[name].shape)}, not as its config "
                            f"says {tuple(value.shape)}: name another")  # fmt: skip
    state = {name: state[name] for name in wanted}
    if not checkpoints.finite(state):
        raise UserError(f"{source} holds weights that are not finite: name another")
    return state


def write(model: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors."""
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(EXTRA) from error
    kind = KINDS[type(model).__name__]
    about = json.dumps(describe(model.config, kind), indent=1)
    state = {n: v.detach().cpu().contiguous() for n, v in model.state_dict().items()}
    data = save(to_transformers(state), {"format": "pt"})
    settings.write(folder / "model.safetensors", lambda file: file.write(data))
    settings.write(folder / "config.json", lambda file: file.write(about.encode()))
