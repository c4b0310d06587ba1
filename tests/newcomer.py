"""python tests/newcomer.py: the README's lines as they stand, from a clone and an empty environment to answers about one's own pictures.

Prints what each command took; exit code 1 if one failed. Run by `make bars`; wants a package registry.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
STEPS = {
    "environment": r"python -m venv .*",
    "install and first sweep": r"pip install -e \. && .*-m",
    "report": r"(python -m lab\.|lab )report",
    "own file: what is in it": r"(python -m lab\.data\.|lab data )check questions\.csv",
    "own file: train": r"(python -m lab\.|lab )train data=questions data\.path=questions\.csv",
    "own pictures: answers": r'(python -m lab\.|lab )predict RUN pictures/ --question ".*',
}
"""What a newcomer does, and which of the README's lines does it."""


def lines() -> dict[str, str]:
    """The README's command of each step."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    found = {step: [command for command in commands if re.fullmatch(pattern, command)] for step, pattern in STEPS.items()}
    if lacking := [step for step, fitting in found.items() if not fitting]:
        raise SystemExit(f"README.md has no command for: {', '.join(lacking)}")
    return {step: fitting[0] for step, fitting in found.items()}


def draw(folder: Path) -> None:
    """What a newcomer has: pictures, and a CSV with a question about each."""
    (folder / "pictures").mkdir()
    rows = ["image,question,answer"]
    for i in range(120):
        colour, shape = ("red", "green", "blue")[i % 3], ("circle", "square")[i % 2]
        image = Image.new("RGB", (56, 56), "white")
        box = (4 + i % 12, 5 + i % 9, 34 + i % 12, 35 + i % 9)
        pen = ImageDraw.Draw(image)
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=colour)
        image.save(folder / "pictures" / f"{i}.png")
        rows.append(f"pictures/{i}.png,What is the colour of the {shape}?,{colour}")
    (folder / "questions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> int:
    """Do all, in a clone; stop at the first command that fails."""
    with tempfile.TemporaryDirectory(prefix="lab-newcomer-") as scratch:
        folder = Path(scratch) / "vlm-lab"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        draw(folder)
        began, run = time.monotonic(), ""
        for step, line in (commands := lines()).items():
            command = line.replace(" RUN ", f" {run} ")
            active = "" if step == "environment" else ". .venv/bin/activate && "
            start = time.monotonic()
            done = subprocess.run(["bash", "-c", active + command], cwd=folder, capture_output=True, text=True, check=False)
            print(f"{time.monotonic() - start:6.0f} s  {step}: {command}", flush=True)
            if done.returncode:
                print(f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
                return 1
            if "train" in command:
                run = max((folder / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime).parent.name
        answers = (folder / "answers" / "predictions.csv").read_text(encoding="utf-8").splitlines()
        print(f"{len(answers) - 1} answers, {(time.monotonic() - began) / 60:.1f} minutes, {len(commands)} commands")
    return 0


if __name__ == "__main__":
    sys.exit(main())
