"""What the Containerfile says is done, in folders instead of an image; then its command serves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from serve_process import Server, answer_of, make_home, request
from test_serve_read_only import close, held_to_permissions

INFER = "/v2/models/pumps/infer"
ROOT = Path(__file__).parents[2]
#: What would take minutes, or the network. Kernels are compiled ahead by another test.
LEFT_OUT = ("--require-hashes", "shoal warm", "chown")


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


class Image:
    """Carries instructions out below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.arguments: dict[str, str] = {}
        self.usual = {"PATH": os.environ["PATH"], "HOME": str(root)}
        self.environment = dict(self.usual)
        self.folder = root
        self.told: dict[str, str] = {}
        self.left_out: list[str] = []

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/") if path.startswith("/") else self.folder / path

    def below(self, text: str) -> str:
        """The text with the image's folders where they are here, and values put in."""
        known = {**self.arguments, **self.environment}
        text = re.sub(r"(?<![\w.])/(opt|srv|src|tmp)(?=/|\b)", lambda found: f"{self.root}/{found[1]}", text)
        return re.sub(r"\$\{(\w+)\}", lambda found: known[found[1]], text)

    def do(self, word: str, rest: str) -> None:
        if word == "FROM":
            self.begin()
        elif word == "ARG":
            name, _, value = rest.partition("=")
            self.arguments[name] = value
        elif word == "ENV":
            self.environment |= dict(pair.split("=", 1) for pair in self.below(rest).split())
        elif word == "WORKDIR":
            self.folder = self.at(rest)
            self.folder.mkdir(parents=True, exist_ok=True)
        elif word == "COPY" and rest.startswith("--from=build "):
            source, target = rest.split()[1:]
            shutil.copytree(self.root / f"build{source}", self.at(target), symlinks=True)
        elif word == "COPY":
            self.copy(*rest.split())
        elif word == "RUN":
            self.run(rest)
        else:
            self.told[word] = rest

    def begin(self) -> None:
        """Begin a stage, which has nothing of the one before but what it copies."""
        self.arguments, self.environment, self.folder = {}, dict(self.usual), self.root
        for name in ("opt", "src"):
            if (self.root / name).exists():
                (self.root / "build").mkdir(exist_ok=True)
                shutil.move(self.root / name, self.root / "build" / name)

    def copy(self, *paths: str) -> None:
        *sources, target = paths
        for source in sources:
            place = self.at(target) / source if target.endswith("/") else self.at(target)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / source, place)

    def run(self, line: str) -> None:
        left = [word for word in LEFT_OUT if word in line]
        if left:
            self.left_out += left
            line = line.split("&&", maxsplit=1)[0] if "&&" in line else "true"
        line = re.sub(r"^python ", f"{sys.executable} ", self.below(line))
        done = subprocess.run(
            line, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        if "-m venv" in line:
            self.lend_libraries()

    def lend_libraries(self) -> None:
        """What is installed here stands for what would be installed there."""
        [packages] = (self.root / "opt/shoal/lib").glob("python*/site-packages")
        (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    made = Image(tmp_path_factory.mktemp("image"))
    for word, rest in instructions():
        made.do(word, rest)
    yield made
    close(made.root, closed=False)


@pytest.mark.timeout(600)  # the server compiles all kernels
def test_the_image_holds_what_was_built_and_serves(image, tmp_path):
    assert image.left_out == [*LEFT_OUT]
    home = Path(image.environment["SHOAL_HOME"])
    assert home == image.root / "srv/shoal"
    assert image.environment["SHOAL_CPU"] == "x86-64-v3"
    assert image.told["VOLUME"] == "/srv/shoal"
    assert f"chown {image.told['USER']} /srv/shoal" in (ROOT / "Containerfile").read_text()
    shutil.rmtree(image.root / "build")
    make_home(home)
    closed = image.root / "opt"
    close(closed, closed=True)
    ready = tmp_path / "ready.json"
    options = json.loads(image.told["CMD"])
    assert options[:3] == ["serve", "--host", "0.0.0.0"]
    command = [*json.loads(image.told["ENTRYPOINT"]), options[0], "--port", "0", "--grpc-port", "0"]
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [shutil.which(command[0], path=image.environment["PATH"]), *command[1:], "--ready-file", str(ready)],
            env=image.environment, cwd=tmp_path, stdout=file, stderr=file, preexec_fn=held_to_permissions,
        )  # fmt: skip
    server = Server(process, home, log)
    try:
        server.wait()
        with server.client() as client:
            assert answer_of(client.post(INFER, json=request())) == ("1", pytest.approx(4))
        check = json.loads(image.told["HEALTHCHECK"].partition("CMD ")[2])
        address = check[2].replace("http://127.0.0.1:8080", server.url)
        assert address != check[2]
        asked = subprocess.run([sys.executable, "-c", address], capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert server.end(getattr(signal, image.told["STOPSIGNAL"])) == 0, server.news()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_the_package_in_the_image_is_its_own(image):
    where = "import shoal; print(shoal.__file__)"
    found = subprocess.run(
        [image.root / "opt/shoal/bin/python", "-c", where], env=image.environment, cwd=image.root, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert found.stdout.startswith(str(image.root / "opt/shoal/lib"))


def test_without_a_key_the_image_says_what_to_do(image, tmp_path):
    home = tmp_path / "home"
    make_home(home)
    options = json.loads(image.told["CMD"])
    refused = subprocess.run(
        [image.root / "opt/shoal/bin/shoal", *options], env={**image.environment, "SHOAL_HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "shoal keys create" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_nothing_else_gets_into_the_image():
    """The context is what the instructions copy."""
    wanted = {
        path
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--")
        for path in rest.split()[:-1]
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == wanted
