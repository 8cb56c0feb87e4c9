"""`make image`: builds a Bento of the installed models, then the image of deploy/container/Dockerfile with it.

The same source, models and requirements give the same layers, wherever and whenever they are built.
"""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import Literal

import click
import yaml

from cli.serve import import_shipped
from models.cost import COST

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
EPOCH = os.environ.get("SOURCE_DATE_EPOCH") or "315532800"
"""The time of every file in the image, in seconds since 1970: by default 1980, the earliest of a zip archive."""

Flavour = Literal["cpu", "cuda", "scale"]
REQUIREMENTS: dict[Flavour, str] = {"cpu": "serve.txt", "cuda": "cuda.txt", "scale": "scale.txt"}


# OCI's own format has no HEALTHCHECK; without --layers Buildah would make a single layer.
BUILDAH = ("build", "--format", "docker", "--layers", "--timestamp", EPOCH)
ENGINES = {
    "docker": ("build", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
    "podman": BUILDAH,
    "buildah": BUILDAH,
}
"""The arguments with which each engine builds, in order of preference."""


def find_engine(name: str | None = None) -> str:
    """Return the engine of that name, or the first that works here.

    Raises:
        click.ClickException: it does not, or none does.
    """
    for engine in [name] if name else ENGINES:
        if shutil.which(engine) and subprocess.run([engine, "info"], capture_output=True).returncode == 0:
            return engine
    subject = f"{name} does not work" if name else "Neither docker nor podman nor buildah works"
    raise click.ClickException(
        f"{subject} here; `{name or 'docker'} info` says why. On Debian and Ubuntu one is had with: "
        "apt-get install --no-install-recommends buildah podman runc netavark aardvark-dns iptables catatonit"
    )


def run(*command: str, show_output: bool = False) -> str:
    """Run a command in the source's folder and return what it printed, or show that while it runs.

    Raises:
        click.ClickException: the command failed.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `bentoml build` looks for uv there
        "BENTOML_DO_NOT_TRACK": "True",
    }
    finished = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=not show_output)
    if finished.returncode:
        raise click.ClickException(f"`{' '.join(command)}` failed.\n{finished.stdout or ''}{finished.stderr or ''}")
    return finished.stdout or ""


def prepare_context(context: Path, flavour: Flavour) -> str:
    """Fill a new folder with the build context of the Dockerfile, and return the Bento's version.

    Raises:
        click.ClickException: a model that ships could not be imported, or the Bento not built.
    """
    if failed := import_shipped():
        raise click.ClickException(f"The image would lack {', '.join(failed)}.")
    (context / "app").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="vitrine-bento-") as folder:
        export_bento(Path(folder) / "bento")
        return lay_out(Path(folder) / "bento", context, flavour)


def export_bento(folder: Path) -> None:
    """Build a Bento of the installed models and unpack it into a folder; it does not stay in the store."""
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    tag = run(bentoml, "build", "--output", "tag").strip().splitlines()[-1].removeprefix("__tag__:")
    try:
        archive = folder.with_suffix(".tar")
        run(bentoml, "export", tag, str(archive))
        with tarfile.open(archive) as bento:
            bento.extractall(folder, filter="data")
        archive.unlink()
    finally:
        run(bentoml, "delete", "--yes", tag)


def lay_out(bento: Path, context: Path, flavour: Flavour) -> str:
    """Make the build context of an unpacked Bento, with nothing in it that depends on when or where it is made.

    Args:
        bento: the folder of the Bento, which is moved.
        context: the folder of the build context.
        flavour: decides which requirements are installed.

    Returns:
        The Bento's version, a digest of its code and of the versions of its models.
    """
    app = context / "app" / "bento"
    shutil.move(bento / "models", context / "models")
    shutil.move(bento, app)
    for unused in (app / "env", app / "apis", app / "src" / "requirements", app / "src" / "bentofile.yaml"):
        shutil.rmtree(unused) if unused.is_dir() else unused.unlink(missing_ok=True)  # they are for building
    for description in context.glob("models/*/*/model.yaml"):
        rewrite(description)
        (description.parent / COST).unlink(missing_ok=True)  # it was measured on this machine
    rewrite(app / "bento.yaml", version="0" * 16)
    version = digest(app)
    rewrite(app / "bento.yaml", version=version)
    for name in ("entrypoint.py", "healthcheck.py"):
        shutil.copyfile(HERE / name, context / "app" / name)
    shutil.copyfile(HERE / "Dockerfile", context / "Dockerfile")
    shutil.copyfile(ROOT / "requirements" / REQUIREMENTS[flavour], context / "requirements.txt")
    shutil.copyfile(ROOT / "requirements" / "sbom.txt", context / "sbom.txt")
    shutil.copyfile(ROOT / "pyproject.toml", context / "pyproject.toml")
    for path in (context, *context.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # readable by any user, whatever the umask and the store say
        os.utime(path, (int(EPOCH), int(EPOCH)))
    return version


def rewrite(path: Path, **changes: str) -> None:
    """Change values of one of BentoML's YAML files, and set every `creation_time` in it to 1980."""
    content = yaml.safe_load(path.read_text("utf-8"))
    content.pop("image", None)  # repeats all requirements, and every process would read them
    text = yaml.safe_dump(content | changes, sort_keys=False)
    path.write_text(re.sub("(?<=creation_time: ).*", "'1980-01-01T00:00:00+00:00'", text), "utf-8")


def digest(folder: Path) -> str:
    """Return 16 hex digits of the sha256 over the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def revision() -> str:
    """Return the commit, with `-dirty` appended if files differ from it; `unknown` outside a clone."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return described.stdout.strip() if described.returncode == 0 else "unknown"


def release() -> str:
    """Return Vitrine's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def layers(engine: str, tag: str) -> list[tuple[int, str]]:
    """Return the bytes of every layer that is not empty, with the instruction that made it, from the base up."""
    program = "podman" if engine == "buildah" else engine  # Buildah shows no history of its own
    if not shutil.which(program):
        return []
    history = run(program, "history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", tag)
    lines = [line.partition("\t") for line in reversed(history.splitlines())]
    return [(parse_size(size), made_by) for size, _, made_by in lines if parse_size(size) > 1024]


def parse_size(size: str) -> int:
    """Return the bytes of `1.4 MB` or `1.4MB`, 0 of what is neither; Podman prints sizes in no other way."""
    match = re.fullmatch(r"([\d.]+) ?([kMG]?)B", size.strip())
    return round(float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]) if match else 0


def title_of(made_by: str) -> str:
    """Return what a layer holds, from the instruction that made it."""
    for word, title in (("/app/.venv", "packages"), ("/app/bento/models", "models"), ("COPY", "code")):
        if word in made_by and "COPY" in made_by:
            return title
    return "base"


@click.command()
@click.option("--flavour", type=click.Choice(list(REQUIREMENTS)), default="cpu", show_default=True)
@click.option("--tag", help="Name of the image; vitrine:FLAVOUR by default.")
@click.option("--engine", "engine_name", type=click.Choice(list(ENGINES)))
@click.option("--base", default="python:3.11-slim", show_default=True, help="Any Debian with Python 3.11 or newer.")
@click.option("--no-cache", is_flag=True, help="Build every layer anew.")
@click.option("--sbom", type=click.Path(path_type=Path), help="File; dist/vitrine-FLAVOUR.cdx.json by default.")
@click.option("--prepare", type=click.Path(path_type=Path), help="Only fill this folder, to be built elsewhere.")
def main(
    flavour: Flavour,
    tag: str | None,
    engine_name: str | None,
    base: str,
    no_cache: bool,
    sbom: Path | None,
    prepare: Path | None,
) -> None:
    """Build the image of the installed models, with its bill of materials beside it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)  # it says what was imported
    if prepare:
        prepare_context(prepare, flavour)
        return
    engine = find_engine(engine_name)
    tag = tag or f"vitrine:{flavour}"
    sbom = sbom or ROOT / "dist" / f"vitrine-{flavour}.cdx.json"
    with tempfile.TemporaryDirectory(prefix="vitrine-image-") as name:
        context, bill = Path(name) / "context", Path(name) / "sbom"
        click.echo("Packing a Bento of the installed models …")
        version = prepare_context(context, flavour)
        build = [engine, *ENGINES[engine], f"--build-arg=BASE={base}"]
        build += [f"--build-arg=VERSION={release()}-{version}", f"--build-arg=REVISION={revision()}"]
        click.echo(f"Building {tag} with {engine} …")
        run(*build, *(["--no-cache"] if no_cache else []), "--tag", tag, str(context), show_output=True)
        run(*build, "--target", "sbom", "--output", f"type=local,dest={bill}", str(context), show_output=True)
        sbom.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bill / "sbom.cdx.json", sbom)
    click.echo(f"\n{tag}: Vitrine {release()}, Bento {version}. What is in it: {sbom}")
    sizes = Counter[str]()
    for size, made_by in layers(engine, tag):
        sizes[title_of(made_by)] += size
    for title, size in (*sizes.items(), ("all", sizes.total())):
        click.echo(f"  {title:<9}{size / 1e6:9.1f} MB")


if __name__ == "__main__":
    main()
