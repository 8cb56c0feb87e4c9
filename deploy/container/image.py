"""`make image`: `bentoml build`, then deploy/container/Dockerfile over the exported Bento.

The same source, models and requirements give the same layers, wherever and whenever they are built.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click
import yaml

from models import registry, store

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
EPOCH = os.environ.get("SOURCE_DATE_EPOCH") or "315532800"
"""The time of every file in the image, in seconds: 1980, the earliest that a zip archive knows."""

Flavour = Literal["cpu", "cuda"]
REQUIREMENTS: dict[Flavour, str] = {"cpu": "serve.txt", "cuda": "cuda.txt"}


# Docker's format, as OCI's has no HEALTHCHECK; layers, as Buildah would make one of all.
BUILDAH = ("build", "--format", "docker", "--layers", "--timestamp", EPOCH)
ENGINES = {
    "docker": ("build", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"),
    "podman": BUILDAH,
    "buildah": BUILDAH,
}
"""How each builds, in the order of preference."""


def find_engine(name: str | None = None) -> str:
    """The engine of that name, or the first that works here."""
    for engine in [name] if name else ENGINES:
        if shutil.which(engine) and subprocess.run([engine, "info"], capture_output=True).returncode == 0:
            return engine
    subject = f"{name} does not work" if name else "Neither docker nor podman nor buildah works"
    raise click.ClickException(
        f"{subject} here; `{name or 'docker'} info` says why. On Debian and Ubuntu one is had with: "
        "apt-get install --no-install-recommends buildah podman runc netavark aardvark-dns iptables catatonit"
    )


def run(*command: str, shown: bool = False) -> str:
    """Run a command here; gives what it printed, unless it was shown, and ends with its complaint if it fails."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # `bentoml build` looks for uv there
        "BENTOML_DO_NOT_TRACK": "True",
    }
    ran = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=not shown)
    if ran.returncode:
        raise click.ClickException(f"`{' '.join(command)}` failed.\n{ran.stdout or ''}{ran.stderr or ''}")
    return ran.stdout or ""


def import_shipped() -> None:
    """Install the models that ship with weights, as `vitrine serve` does; what an operator brought stays."""
    for name in registry.bundled():
        if registry.has_weights(name) and store.shipped_is_wanted(name):
            store.import_package(registry.package_of(name))


def prepare_context(context: Path, flavour: Flavour) -> str:
    """Fill a new folder with what the Dockerfile is run in; gives the Bento's version."""
    import_shipped()
    (context / "app").mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="vitrine-bento-") as folder:
        export_bento(Path(folder) / "bento")
        return lay_out(Path(folder) / "bento", context, flavour)


def export_bento(folder: Path) -> None:
    """Build a Bento of the installed models and unpack it into `folder`; it does not stay in the store."""
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
    """Make the folder that the Dockerfile is run in, with nothing in it that depends on when or where.

    Returns:
        The Bento's version, a digest of its code and of the versions of its models.
    """
    app = context / "app" / "bento"
    shutil.move(bento / "models", context / "models")
    shutil.move(bento, app)
    for unused in (app / "env", app / "apis", app / "src" / "requirements", app / "src" / "bentofile.yaml"):
        shutil.rmtree(unused) if unused.is_dir() else unused.unlink(missing_ok=True)  # they build; they do not serve
    for description in context.glob("models/*/*/model.yaml"):
        rewrite(description, timeless)

    def as_packed(info: dict[str, object]) -> None:
        timeless(info)
        info.pop("image", None)  # all requirements once more, which every process would read
        info["version"] = "0" * 16

    rewrite(app / "bento.yaml", as_packed)
    version = digest(app)
    rewrite(app / "bento.yaml", lambda info: info.update(version=version))
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


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change a YAML file."""
    content = yaml.safe_load(path.read_text("utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def timeless(part: object) -> None:
    """Put every `creation_time` back to the epoch."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "creation_time":
                part[key] = "1980-01-01T00:00:00+00:00"
            else:
                timeless(value)
    elif isinstance(part, list):
        for each in part:
            timeless(each)


def digest(folder: Path) -> str:
    """16 digits that stand for the names and bytes of all files below a folder."""
    found = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        found.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def revision() -> str:
    """The commit, with `-dirty` behind it if the tree is another; unknown outside a clone."""
    ran = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return ran.stdout.strip() if ran.returncode == 0 else "unknown"


def release() -> str:
    """Vitrine's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def layers(engine: str, tag: str) -> list[tuple[int, str]]:
    """Bytes of every layer that is not empty, and what made it, from the base up."""
    teller = "podman" if engine == "buildah" else engine  # Buildah keeps no account of its own
    if not shutil.which(teller):
        return []
    said = run(teller, "history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", tag)
    lines = [line.partition("\t") for line in reversed(said.splitlines())]
    return [(bytes_of(size), made) for size, _, made in lines if bytes_of(size) > 1024]


def bytes_of(size: str) -> int:
    """Read `1.4 MB` or `1.4MB`; Podman says it no other way."""
    read = re.fullmatch(r"([\d.]+) ?([kMG]?)B", size.strip())
    return round(float(read[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[read[2]]) if read else 0


def title_of(made: str) -> str:
    """What a layer holds, from the instruction that made it."""
    for sign, title in (("/app/.venv", "packages"), ("/app/bento/models", "models"), ("COPY", "code")):
        if sign in made and "COPY" in made:
            return title
    return "base"


@click.command()
@click.option("--flavour", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--tag", help="Name of the image; vitrine:FLAVOUR by default.")
@click.option("--engine", "engine_name", type=click.Choice(list(ENGINES)))
@click.option("--base", default="python:3.11-slim", show_default=True, help="Any Debian with Python 3.11 or newer.")
@click.option("--no-cache", is_flag=True, help="Build every layer anew.")
@click.option("--sbom", type=click.Path(path_type=Path), help="Where to; dist/vitrine-FLAVOUR.cdx.json by default.")
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
        run(*build, *(["--no-cache"] if no_cache else []), "--tag", tag, str(context), shown=True)
        run(*build, "--target", "sbom", "--output", f"type=local,dest={bill}", str(context), shown=True)
        sbom.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bill / "sbom.cdx.json", sbom)
    click.echo(f"\n{tag}: Vitrine {release()}, Bento {version}. What is in it: {sbom}")
    table = Counter[str]()
    for size, made in layers(engine, tag):
        table[title_of(made)] += size
    for title, size in (*table.items(), ("all", table.total())):
        click.echo(f"  {title:<9}{size / 1e6:9.1f} MB")


if __name__ == "__main__":
    main()
