import pytest

import demo
from sample_flux.ternary import convert_pipeline


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("demo-output")


def test_it_runs_end_to_end(tiny_folder, output, monkeypatch, capsys):
    monkeypatch.setattr(demo, "METHODS", {"two planes": ("--method", "planes")})
    monkeypatch.setattr(demo, "MODEL", tiny_folder)
    shipped = output / "shipped"
    convert_pipeline(tiny_folder, shipped, "--method", "exact")
    monkeypatch.setattr(demo, "SHIPPED", {"distilled": shipped / "transformer"})
    assert demo.main(["--pairs", "12", "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert err.count("ternfmt convert ") == err.count("two-planes --method planes") == 1
    titles = [line[:14].strip() for line in out.splitlines()]
    for title in ("block ratio", "weight SNR", "counting", "overall", "kept", "peak memory", "per picture"):
        assert title in titles
    assert ["full", "precision", "two", "planes", "distilled"] in [line.split() for line in out.splitlines()]
    assert (output / "contact-sheet.png").read_bytes().startswith(b"\x89PNG")
