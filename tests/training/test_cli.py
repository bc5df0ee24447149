"""Laws of training/cli.py and its commands: clear errors, nothing lost, nothing heavy loaded in vain."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visualzoom.agents.chat import ImageLimits
from visualzoom.algorithms.gdpo import GDPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.training.assemble import make_algorithm
from visualzoom.training.checks import scope_warning
from visualzoom.training.cli import main, parse_train
from visualzoom.training.config import PRESETS, TrainConfig, UsageError, WorldConfig
from visualzoom.training.config_file import config_to_json
from visualzoom.training.metrics import read_metrics
from visualzoom.training.run_folder import open_run
from visualzoom.training.world import NoModel, check_world, env_maker, open_source, unseen

BEFORE = {path.name for path in Path().iterdir()}


def exit_code(*arguments: str) -> int:
    """What the command gives back; tyro leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as left:
        assert isinstance(left.code, int)
        return left.code


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--preset", "tinni"], "Did you mean 'tiny'"),
        (["train", "--algorithm", "grop"], "Did you mean 'grpo'"),
        (["train", "--algorithm", "no.such:Thing"], "no.such"),
        (["train", "--env", "visualzoom.envs:VisualZom-v0"], "--env visualzoom.envs:VisualZom-v0"),
        (["train", "--env", "no_such_module:X-v0"], "no_such_module"),
        (["train", "--model", "tinny"], "Did you mean 'tiny'"),
        (["train", "--tasks", "digt"], "Did you mean 'digit'"),
        (["train", "--reward", "deepeye"], "Did you mean 'deepeyes'"),
        (["train", "--tool", "image_zoom_in"], "Did you mean 'image_zoom_in_tool'"),
        (["train", "--size-px", "100"], "100 px"),
        (["train", "--coordinates", "0-10"], "0-1000"),
        (["train", "--kernel", "torche"], "Did you mean 'torch'"),
        (["train", "--env-workers", "-1"], "env_workers is -1"),
        (["train", "--agent", "vml"], "Did you mean 'vlm'"),
        (["train", "--tracker", "tensorbord"], "Did you mean 'tensorboard'"),
        (["train", "--protocol", "deepeyes-v22"], "Did you mean 'deepeyes-v2'"),
        (["train", "--algorithm-options", "clip_hi=1"], "clip_high"),
        (["train", "--algorithm-options", "clip_high=-1"], "clip_high"),
        (["train", "--algorithm-options", "clip_low=abc"], "clip_low=abc: Expected `float`"),
        (["train", "--algorithm-options", "num_epochs=0"], "num_epochs is 0"),
        (["train", "--algorithm", "visualzoom.agents.scripted:OracleAgent"], "an algorithm has the members of"),
        (["train", "--algorithm", "string:digits"], "this is no class"),
        (["train", "--agent", "visualzoom.agents.scripted:OracleAgent"], "can't be made with (policy, renderer"),
        (["train", "--model", "/tmp"], "holds no model"),
        (["train", "--data", "absent.jsonl"], "there is no such file"),
        (["train", "--learning-rat", "1"], "--learning-rate"),
        (["train", "--learning-rate", "-1"], "positive number"),
        (["train", "--freeze", "model.vision.*"], "Did you mean 'model.visual.*'"),
        (["train", "--freeze", "*"], "nothing is left to train"),
        (["train", "--lora-rank", "2", "--lora-targets", "q_porj"], "--lora-targets 'q_porj' is no linear layer"),
        (["train", "--lora-rank", "2", "--freeze", "*lora*"], "nothing is left to train"),
        (["train", "--lora-targets", "q_proj"], "without adapters; give a lora_rank"),
        (["train", "--lora-rank", "-1"], "lora_rank is -1"),
        (["train", "--schedule", "linaer"], "linear"),
        (["train", "--min-learning-rate-share", "0.1"], "a constant rate never falls"),
        (["train", "--schedule", "cosine", "--min-learning-rate-share", "2"], "it must be from 0 to 1"),
        (["train", "--critic", "shared"], "--critic shared: grpo has no critic; say --algorithm ppo"),
        (["train", "--algorithm", "ppo", "--critic-learning-rate", "1"], "choose critic separate"),
        (["export", "--model", "tinny", "--out", "new"], "Did you mean 'tiny'"),
        (["export", "--model", "tiny", "--out", "examples"], "is no empty folder"),
        (["train", "--device", "gpu"], "cuda"),
        (["train", "--config", "absent.json"], "absent.json"),
        (["train", "--config"], "config.json"),
        (["train", "--resume"], "--resume"),
        (["train", "--resume", "absent"], "is not there"),
        (["eval", "--model", "tinny"], "Did you mean 'tiny'"),
        (["eval", "--agent", "oracle", "--num-tasks", "0"], "at least 1"),
        (["eval", "--agent", "oracl"], "known: vlm, oracle, random"),
        (["ask", "absent.png", "What?"], "is not there"),
        (["ask", "examples", "What?"], "is a folder"),
        (["ask", "examples/pictures/cards.png", "What?", "--out", "zoom"], "let the name end in"),
        (["ask", "examples/pictures/cards.png", "What?", "--out", "examples"], "is a folder"),
        (["ask", "examples/pictures/cards.png", "What?", "--out", "absent/zoom.png"], "no folder absent"),
        (["train", "--data", "examples"], "holds no file that ends in .jsonl or .parquet"),
        (["play", "--agent", "nobody"], "oracle"),
        (["train", "--env", "CartPole-v1"], "agents read a dict with `text` (str) and `images`"),
        (["train", "--env", "no_such_module:World-v0"], "is its folder on PYTHONPATH?"),
        (["train", "--kernel", "fast"], "known: auto, pillow, torch"),
    ],
)
def test_what_the_user_gets_wrong_is_said_without_a_traceback(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    said = capsys.readouterr().err
    assert expected in " ".join(said.split())
    assert "Traceback" not in said
    assert not Path("runs").exists() or "runs" in BEFORE  # nothing was made


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    assert exit_code("train", "--lora-rank", "2") == 2
    assert 'needs peft, which is not installed: pip install "visualzoom[lora]"' in capsys.readouterr().err


def test_a_config_file_with_an_unknown_key_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"learn": {"group_sise": 4}}')
    assert exit_code("train", "--config", str(path)) == 2
    assert "Did you mean 'group_size'" in capsys.readouterr().err


def test_a_run_folder_that_exists_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert exit_code("train", "--out", str(tmp_path)) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n truncated"])
def test_asking_about_a_corrupt_picture_names_the_file(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    assert exit_code("ask", str(path), "What does the sign say?") == 2
    assert str(path) in capsys.readouterr().err


def test_a_bad_row_is_named_and_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    good = {"image": "a.png", "question": "What?", "answer": "7"}
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (good, good | {"image": "absent.png"}, good)))
    arguments = ("eval", "--agent", "oracle", "--data", str(path))
    assert exit_code(*arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "tasks.jsonl" in said and "absent.png" in said and "image" in said
    assert exit_code(*arguments, "--skip-bad-rows") == 0
    printed = capsys.readouterr()
    assert "skipped 1 bad row" in printed.err and "oracle" in printed.out
    source = check_world(WorldConfig(data=path, skip_bad_rows=True))
    assert capsys.readouterr().err == ""  # the list is shown once, by who plays the tasks
    assert len(unseen(500, source)) == 1 and len(unseen(500, open_source(WorldConfig()))) == 500


@pytest.mark.parametrize("command", ["train", "eval", "ask", "play", "mismatch", "export"])
def test_help_names_every_flag_with_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--help") == 0
    assert "--" in capsys.readouterr().out


def test_no_command_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code() == 0
    assert "visualzoom ask photo.jpg" in capsys.readouterr().out


def test_flags_go_over_the_preset() -> None:
    config = parse_train(["--preset", "deepeyes-7b", "--steps", "3", "--tool", "a", "b", "--learning-rate", "1e-5"])
    assert config.model == PRESETS["deepeyes-7b"].model and config.learn.group_size == 16
    assert config.steps == 3 and config.world.tool == ("a", "b") and config.learn.learning_rate == 1e-5


def test_without_flags_it_is_the_tiny_preset() -> None:
    assert parse_train([]) == PRESETS["tiny"]


def test_a_config_file_is_the_base_of_the_flags(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config_to_json(TrainConfig(seed=5, algorithm="ppo")))
    config = parse_train(["--config", str(path), "--seed", "6"])
    assert config.seed == 6 and config.algorithm == "ppo"


def test_resuming_starts_from_the_config_of_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_run(TrainConfig(seed=5, algorithm="ppo", out=out))
    config = parse_train(["--resume", str(out), "--steps", "200"])
    assert (config.seed, config.algorithm, config.steps, config.out) == (5, "ppo", 200, None)


def test_play_lets_the_oracle_look_and_answer_and_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from visualzoom.training.cli import main; "
        f"code = main(['play', '--agent', 'oracle', '--episodes', '2', '--out', {str(tmp_path)!r}]); "
        "assert not {'torch', 'transformers', 'pyarrow'} & sys.modules.keys(), 'heavy'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "oracle      2     1.000" in done.stdout
    assert len(list(tmp_path.glob("episode-*.png"))) == len(list(tmp_path.glob("episode-*.json"))) == 2


def test_a_person_plays_by_typing_a_box_and_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed, sys.stdin = sys.stdin, io.StringIO("10 10 60 60\nseven\n")
    try:
        assert exit_code("play", "--out", str(tmp_path)) == 0
    finally:
        sys.stdin = typed
    (saved,) = tmp_path.glob("episode-*.json")
    episode = json.loads(saved.read_text())
    assert [len(turn["tool_results"]) for turn in episode["turns"]] == [1, 0]
    assert episode["turns"][0]["tool_results"][0]["error"] is None
    assert episode["answer"] == "seven" and episode["stop_reason"] == "answered"
    said = capsys.readouterr().out
    assert "look at" in said
    assert said.count("<answer>...</answer>") >= 2, "the words of each turn"


def test_an_option_that_a_foreign_environment_lacks_is_not_dropped_in_silence() -> None:
    world = PRESETS["tiny"].world
    foreign = type(world)(env="CartPole-v1")
    env_maker(foreign, open_source(world))().close()
    with pytest.raises(UsageError, match="takes no max_turns, reward"):
        env_maker(type(world)(env="CartPole-v1", reward="accuracy", max_turns=5), open_source(world))


@pytest.mark.parametrize("side_px", [512, 2048])
def test_images_are_shown_as_the_model_takes_them(side_px: int) -> None:
    limits = ImageLimits(factor_px=32, min_px=256 * 256, max_px=320 * 320)  # a Qwen3-VL takes no less than 256 x 256
    world = WorldConfig(size_px=side_px, view_min_px=4 * 56 * 56, view_max_px=2560 * 28 * 28)
    env = env_maker(replace(world, crop_max_px=1280 * 28 * 28), open_source(world), onlooker=NoModel(limits=limits))()
    observation, _ = env.reset(seed=0)
    (image,) = observation["images"]
    assert limits.num_cells((image.shape[1], image.shape[0])) > 0


@pytest.mark.parametrize("spelled", ["false", "False", "0"])
def test_a_setting_of_an_algorithm_has_the_type_that_it_asks_for(spelled: str) -> None:
    assert make_algorithm("reinforce", [f"scale_by_std={spelled}", "decay=0"]) == Reinforce(
        scale_by_std=False, decay=0.0
    )
    assert make_algorithm("grpo", ["std=none"]) == GRPO(std="none")
    assert make_algorithm("gdpo", ['weights={"tool": 2}']) == GDPO(weights={"tool": 2.0})
    with pytest.raises(UsageError, match="std=nun"):
        make_algorithm("grpo", ["std=nun"])


def test_the_default_world_is_sound() -> None:
    assert check_world(PRESETS["tiny"].world).num_tasks is None


SHORT = (
    *("--steps", "2", "--tasks-per-step", "1", "--group-size", "2", "--num-threads", "1", "--size-px", "512"),
    *("--eval-every", "2", "--eval-tasks", "2", "--final-eval-tasks", "3", "--checkpoint-every", "1"),
    *("--episodes-every", "1", "--episodes-saved", "1"),
)
FIXED_NAMES = {
    *("algorithm", "seed", "updates", "seconds", "forced_call_accuracy"),
    *(
        f"{what}_{when}"
        for what in ("greedy_accuracy", "sampled_accuracy", "tool_rate", "iou")
        for when in ("before", "after")
    ),
}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two small steps with the built-in model."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert exit_code("train", *SHORT, "--out", str(out)) == 0
    return out


def test_a_run_leaves_what_a_user_looks_for(finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    assert summary.keys() >= FIXED_NAMES and summary["updates"] == 2 and summary["algorithm"] == "grpo"
    for name in ("config.json", "metrics.jsonl", "curves.png", "checkpoints/last/model.safetensors"):
        assert (finished_run / name).is_file(), name
    assert list((finished_run / "episodes").glob("*.png")) and list((finished_run / "tensorboard").iterdir())
    kinds = {row["kind"] for row in read_metrics(finished_run / "metrics.jsonl")}
    assert kinds == {"train", "greedy", "sampled", "forced"}


def test_a_checkpoint_of_another_config_is_refused_and_left_alone(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (sorted(finished_run.rglob("*")), (finished_run / "config.json").read_text())
    assert exit_code("train", "--resume", str(finished_run), "--group-size", "4", "--seed", "9") == 2
    said = capsys.readouterr().err
    assert "seed is 9, the checkpoint has 0" in said and "learn.group_size is 4, the checkpoint has 2" in said
    assert (sorted(finished_run.rglob("*")), (finished_run / "config.json").read_text()) == before
    assert exit_code("train", "--resume", str(finished_run), "--steps", "2") == 0  # nothing left to do, nothing lost


def test_a_run_folder_can_be_evaluated_in_every_mode(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    arguments = ("--num-tasks", "3", "--num-threads", "1", "--out", str(out), "--episodes-saved", "1")
    assert exit_code("eval", "--model", str(finished_run), "--mode", "greedy", "sampled", "forced", *arguments) == 0
    report = json.loads((out / "report.json").read_text())
    assert (
        list(report["modes"]) == ["greedy", "sampled", "forced"]
        and report["modes"]["forced"]["rollout/tool_calls/mean"] == 1.0
    )
    assert sorted(path.parent.name for path in out.glob("*/*.png")) == ["forced", "greedy", "sampled"]
    assert "Note:" not in capsys.readouterr().out


def test_a_run_on_a_file_of_few_tasks_is_measured_on_the_rows_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    row = json.dumps({"image": "a.png", "question": "What?", "answer": "7"})
    (tmp_path / "tasks.jsonl").write_text("\n".join([row] * 10))
    out = tmp_path / "run"
    settings = (*SHORT, "--size-px", "768", "--tasks-per-step", "12")  # more than there are; no size of scenes
    assert exit_code("train", *settings, "--data", str(tmp_path / "tasks.jsonl"), "--out", str(out)) == 0
    assert json.loads((out / "summary.json").read_text())["eval_tasks"] == 1
    capsys.readouterr()
    assert exit_code("train", *SHORT, "--data", str(tmp_path / "tasks.jsonl"), "--out", str(tmp_path / "b")) == 2
    assert "--size-px 512: these tasks have pictures of their own size" in capsys.readouterr().err
    for file, played in (((), "1"), (("--data", str(tmp_path / "tasks.jsonl")), "10")):
        assert exit_code("eval", "--model", str(out), "--mode", "greedy", "--num-threads", "1", *file) == 0
        assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["greedy", played]


def test_asking_saves_the_picture_and_owns_up_to_the_scope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "looked.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)).save(photo)
    arguments = (str(photo), "What does the sign's text say?", "--num-threads", "1", "--out", str(out))
    assert exit_code("ask", *arguments) == 0
    said = capsys.readouterr().out
    assert "turn 1: the model sees" in said and f"saved: {out}" in said
    assert "built-in model reads one digit" in said and "--model Qwen/Qwen2.5-VL-3B-Instruct" in said
    with Image.open(out) as image:
        assert image.size == (120, 90)
    assert exit_code("ask", str(photo), "What digit is on the red card?", "--num-threads", "1", "--out", str(out)) == 0
    assert "Note:" not in capsys.readouterr().out


def test_tasks_outside_the_scope_are_measured_with_a_word_of_warning(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--num-tasks", "2", "--num-threads", "1", "--mode", "greedy", "--tasks", "letter")
    assert exit_code("eval", *arguments) == 0
    said = capsys.readouterr().out
    assert "built-in model reads one digit" in said and "visualzoom eval --model Qwen" in said and "greedy" in said


def test_an_agent_of_the_users_own_is_measured_beside_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("eval", "--agent", "visualzoom.agents.scripted:RandomAgent", "--num-tasks", "3") == 0
    assert exit_code("eval", "--agent", "oracle", "--num-tasks", "3", "--tasks", "sign") == 0
    oracle = capsys.readouterr().out.splitlines()[-1].split()
    assert oracle[:3] == ["oracle", "3", "1.000"]


def test_training_the_built_in_model_on_what_it_was_not_made_for_is_told() -> None:
    usual = TrainConfig()
    assert scope_warning(usual) == ""
    assert scope_warning(replace(usual, learn=replace(usual.learn, group_size=4))) == ""
    for world in (
        replace(usual.world, tasks="digit:0.5,sign"),
        replace(usual.world, data=Path("rows.jsonl")),
        replace(usual.world, tool=("image_zoom_in_tool", "own_tool:Mirror")),
        replace(usual.world, env="own_environment:WhichHalf-v0"),
    ):
        assert "--model Qwen/" in scope_warning(replace(usual, world=world))


def test_a_server_that_is_not_there_is_named_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("--engine", "vllm", "--engine-url", "http://127.0.0.1:9")
    assert main(["eval", "--num-tasks", "2", *asked]) == 2
    assert main(["train", "--out", str(tmp_path / "run"), *asked]) == 2
    said = capsys.readouterr().err
    assert said.count("http://127.0.0.1:9/pause") == 2 and said.count("is the server up?") == 2


def test_eval_shows_beside_each_other_what_looking_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    modes = ("greedy", "forced", "oracle", "blank", "direct")
    assert main(["eval", "--num-tasks", "40", "--num-threads", "1", "--mode", *modes]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()}
    accuracy, tool_rate = ({mode: float(rows[mode][column]) for mode in modes} for column in (2, 4))
    assert accuracy["oracle"] > 0.9 > accuracy["forced"] > accuracy["blank"] + 0.2
    assert tool_rate["oracle"] == tool_rate["forced"] == 1.0 and tool_rate["direct"] == 0.0


def test_a_blank_crop_stands_for_the_usual_tool_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--mode", "blank", "--tool", "image_rotate_tool"]) == 2
    assert "--mode blank stands for the tool image_zoom_in_tool alone" in " ".join(capsys.readouterr().err.split())
