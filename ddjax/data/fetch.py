"""Get a public set and find it again: `fetch` downloads, `locate` looks in ``$DDJAX_DATA/<card>``.

A download goes to ``NAME.part`` and takes its name when it is whole and its sha256 is the card's;
one that was cut short is continued where it stopped. Nothing is unpacked.
"""

import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddjax.data.cards import Archive, Card, card
from ddjax.errors import DataError

_BLOCK = 1 << 20
_BROKEN = (
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
    http.client.HTTPException,
)


def fetch(
    name: str | Card,
    folder: str | Path,
    *,
    say: Callable[[str], None] = print,
    opener: Callable[..., Any] = urllib.request.urlopen,
) -> list[Path]:
    """Download the archives of a card into ``folder``; returns their paths.

    What is there already, with the right sum, is not fetched again. Errors: no public archive; no
    network; a broken connection (what came is kept); a sum that differs (what came is removed).
    """
    wanted = name if isinstance(name, Card) else card(name, argument="data fetch CARD")
    if not wanted.archives:
        how = "it ships with the package" if wanted.id == "digits" else f"see {wanted.url}"
        raise DataError(f"{wanted.id} has no archive that anybody may download: {how}.")
    folder = Path(folder).expanduser()
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{wanted.id}: licence: {wanted.licence}; {wanted.url}")
    try:
        return [_fetch_one(archive, folder / archive.name, say, opener) for archive in wanted.archives]
    finally:
        for place in made:
            if not any(place.iterdir()):  # nothing came
                place.rmdir()


def _fetch_one(archive: Archive, path: Path, say: Callable[[str], None], opener: Callable[..., Any]) -> Path:
    if path.is_file():
        _verify(archive, path, path, say)
        return path
    part = path.with_name(path.name + ".part")
    try:
        _download(archive.url, part, opener)
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{archive.url}: the server answered {error.code} {error.reason}. Download it by hand to {path}."
        ) from error
    except _BROKEN as error:
        kept = part.stat().st_size if part.is_file() else 0
        raise DataError(
            f"{archive.url}: no connection ({getattr(error, 'reason', error)}). "
            + (f"{kept} bytes are kept in {part.name}; run the same command again to continue" if kept else "Try later")
            + f", or download it by hand to {path}."
        ) from error
    _verify(archive, part, path, say)
    os.replace(part, path)
    return path


def _download(url: str, part: Path, opener: Callable[..., Any]) -> None:
    """The rest of ``url`` that ``part`` lacks; a server that knows no ranges sends all of it."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "ddjax"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = opener(request, timeout=60)
    except urllib.error.HTTPError as error:
        if done and error.code == 416:  # nothing is left to send
            return
        raise
    with response:
        resumed = response.status == 206
        with part.open("ab" if resumed else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
        declared = response.headers.get("Content-Length")
    came = part.stat().st_size - (done if resumed else 0)
    if declared is not None and came != int(declared):
        raise DataError(f"{url}: {came} of {declared} bytes came. Run the same command again to continue.")


def _verify(archive: Archive, held: Path, path: Path, say: Callable[[str], None]) -> None:
    """Compare sums; without one in the card, say what was computed and that nothing vouches."""
    found = hashlib.sha256()
    with held.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found.update(block)
    if archive.sha256 is None:
        say(f"{path}: sha256 {found.hexdigest()} (computed; the card knows none to compare with)")
    elif found.hexdigest() == archive.sha256:
        say(f"{path}: sha256 as expected")
    else:
        if held != path:
            held.unlink()
        raise DataError(
            f"{path}: sha256 is {found.hexdigest()}, expected {archive.sha256}. "
            + ("It was removed; fetch it again." if held != path else "Move it away and fetch.")
        )


def locate(name: str, *, argument: str = "data.train") -> tuple[str, str | None]:
    """The SPECs (train, test) of a card's files in ``$DDJAX_DATA/<card>``; test None: in the same.

    DataError, with the flag that names other files, where they are not there.
    """
    wanted = card(name, argument=argument)
    if wanted.id == "digits":
        return "digits", None
    base = os.environ.get("DDJAX_DATA")
    if not base:
        raise DataError(
            f"{argument} = {name}: the set does not ship and $DDJAX_DATA is not set. "
            f"{_remedy(wanted, Path('$DDJAX_DATA') / wanted.id)}"
        )
    folders = [Path(base).expanduser() / n for n in (wanted.id, wanted.id.replace("_", "-"))]
    folder = next((f for f in folders if f.is_dir()), None)
    found = _layout(folder) if folder else None
    if found is None:
        state = f"{folder} holds no layout that is known" if folder else f"no folder {folders[0]}"
        raise DataError(f"{argument} = {name}: {state}. {_remedy(wanted, folders[0])}")
    return found


def _remedy(wanted: Card, folder: Path) -> str:
    got = f"`ddjax data fetch {wanted.id}`, or put" if wanted.archives else "Put"
    flag = {"mnist": "idx:IMAGES,LABELS", "fashion_mnist": "idx:IMAGES,LABELS"}.get(wanted.id)
    kinds = {"cifar10": "cifar:PATH", "cifar100": "cifar:PATH", "svhn": "svhn:PATH"}
    flag = flag or kinds.get(wanted.id) or ("usps:PATH" if wanted.id == "usps" else "folder:PATH")
    return (
        f"{got} the files in {folder}, or name them: --data.train {flag} --data.card {wanted.id} "
        f"(and --data.test). The set: {wanted.url}"
    )


def _layout(folder: Path) -> tuple[str, str | None] | None:
    """The first layout of a public set that ``folder`` has."""
    for pattern, kind in (
        ("cifar-10*", "cifar"),
        ("data_batch_*", "cifar"),
        ("train_32x32.mat", "svhn"),
        ("usps*.bz2", "usps"),
        ("*.parquet", "parquet"),
    ):
        if any(folder.glob(pattern)):
            return f"{kind}:{folder}", None
    for ending in ("", ".gz"):
        images, test = (folder / f"{p}-images-idx3-ubyte{ending}" for p in ("train", "t10k"))
        if images.is_file():
            return _idx(images), _idx(test) if test.is_file() else None
    for kind, ending in (("zip", ".zip"), ("tar", ".tar"), ("npz", ".npz"), ("folder", "")):
        train = folder / f"train{ending}"
        tests = [folder / f"{part}{ending}" for part in ("test", "val")]
        test = next((t for t in tests if t.exists()), None)
        if train.exists():
            return f"{kind}:{train}", f"{kind}:{test}" if test else None
    train, test = folder / "ILSVRC2012_img_train.tar", folder / "val"
    if train.is_file():
        return f"tar:{train}", f"folder:{test}" if test.is_dir() else None
    for kind, endings in (("zip", (".zip",)), ("tar", (".tar", ".tgz", ".tar.gz"))):
        single = [p for p in sorted(folder.iterdir()) if p.name.endswith(endings)]
        if len(single) == 1:
            return f"{kind}:{single[0]}", None
    return None


def _idx(images: Path) -> str:
    labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
    return f"idx:{images},{labels}"
