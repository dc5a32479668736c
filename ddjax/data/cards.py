"""Cards: what is known of a public image set before its files are opened.

Channel mean and standard deviation are those of the training part, of pixels / 255. ``augment``
is the usual training augmentation of the set, as static numbers (`ddjax.types.Augment`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass

from ddjax import errors
from ddjax.types import Augment


@dataclass(frozen=True)
class Archive:
    """One public file of a set; ``sha256`` is None where nobody we trust has published one."""

    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The file's name as it is kept on disk."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Card:
    """One set: ``size`` (H, W), ``channels`` D; ``class_names`` None means: as the files say; ``train`` images."""

    id: str
    classes: int
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None
    augment: Augment
    licence: str
    citation: str
    url: str
    archives: tuple[Archive, ...] = ()
    note: str = ""
    train: int | None = None

    @property
    def hash(self) -> str:
        """sha256 of all that the card says but ``train``, for manifests."""
        said = asdict(self) | {"augment": list(self.augment.said().values())}
        del said["train"]  # came later; the hashes in manifests stay as they are
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


DIGITS = tuple(str(d) for d in range(10))
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
_FASHION = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot"
_IMAGENETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"

_MNIST_FILES = (
    (
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
_FASHION_FILES = (
    (
        "train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    (
        "train-labels-idx1-ubyte.gz",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)
_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_SVHN_URL = "http://ufldl.stanford.edu/housenumbers/"
_USPS_URL = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"

_ALPAYDIN = """@misc{alpaydin1998digits,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  howpublished = {UCI Machine Learning Repository},
  year = {1998}
}"""
_LECUN = """@article{lecun1998gradient,
  title = {Gradient-based learning applied to document recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE}, volume = {86}, number = {11}, pages = {2278--2324},
  year = {1998}
}"""
_XIAO = """@article{xiao2017fashion,
  title = {{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv:1708.07747}, year = {2017}
}"""
_NETZER = """@inproceedings{netzer2011reading,
  title = {Reading Digits in Natural Images with Unsupervised Feature Learning},
  author = {Netzer, Yuval and Wang, Tao and Coates, Adam and Bissacco, Alessandro and Wu, Bo
            and Ng, Andrew Y.},
  booktitle = {NIPS Workshop on Deep Learning and Unsupervised Feature Learning}, year = {2011}
}"""
_HULL = """@article{hull1994database,
  title = {A database for handwritten text recognition research},
  author = {Hull, Jonathan J.},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {16}, number = {5}, pages = {550--554}, year = {1994}
}"""
_KRIZHEVSKY = """@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto}, year = {2009}
}"""
_LE = """@misc{le2015tiny,
  title = {Tiny {ImageNet} Visual Recognition Challenge},
  author = {Le, Ya and Yang, Xuan},
  howpublished = {Stanford CS 231N}, year = {2015}
}"""
_HOWARD = """@misc{howard2019imagenette,
  title = {Imagenette: a smaller subset of 10 easily classified classes from {ImageNet}},
  author = {Howard, Jeremy},
  howpublished = {https://github.com/fastai/imagenette}, year = {2019}
}"""
_RUSSAKOVSKY = """@article{russakovsky2015imagenet,
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev
            and Ma, Sean and Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein,
            Michael and Berg, Alexander C. and Fei-Fei, Li},
  journal = {International Journal of Computer Vision}, volume = {115}, pages = {211--252},
  year = {2015}
}"""

_ALL = (
    Card(
        id="digits",
        classes=10,
        train=1_297,
        size=(8, 8),
        channels=1,
        mean=(0.3053,),
        std=(0.3759,),
        class_names=DIGITS,
        augment=Augment(pad=1),
        licence="CC BY 4.0",
        citation=_ALPAYDIN,
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        note="ships with scikit-learn; fixed stratified split of 1297 train and 500 test images",
    ),
    Card(
        id="mnist",
        classes=10,
        train=60_000,
        size=(28, 28),
        channels=1,
        mean=(0.1307,),
        std=(0.3081,),
        class_names=DIGITS,
        augment=Augment(pad=2),
        licence="CC BY-SA 3.0",
        citation=_LECUN,
        url="http://yann.lecun.com/exdb/mnist/",
        archives=tuple(Archive(_MNIST_URL + name, sha) for name, sha in _MNIST_FILES),
    ),
    Card(
        id="fashion_mnist",
        classes=10,
        train=60_000,
        size=(28, 28),
        channels=1,
        mean=(0.2860,),
        std=(0.3530,),
        class_names=tuple(_FASHION.split("|")),
        augment=Augment(pad=2, flip=True),
        licence="MIT",
        citation=_XIAO,
        url="https://github.com/zalandoresearch/fashion-mnist",
        archives=tuple(Archive(_FASHION_URL + name, sha) for name, sha in _FASHION_FILES),
    ),
    Card(
        id="svhn",
        classes=10,
        train=73_257,
        size=(32, 32),
        channels=3,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        class_names=DIGITS,
        augment=Augment(pad=2),
        licence="non-commercial use only",
        citation=_NETZER,
        url="http://ufldl.stanford.edu/housenumbers/",
        archives=(
            Archive(
                _SVHN_URL + "train_32x32.mat",
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            Archive(
                _SVHN_URL + "test_32x32.mat",
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        ),
        note="cropped digits, 73257 train and 26032 test; the extra part is not used",
    ),
    Card(
        id="usps",
        classes=10,
        train=7_291,
        size=(16, 16),
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        class_names=DIGITS,
        augment=Augment(pad=1),
        licence="not stated",
        citation=_HULL,
        url="https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps",
        archives=(Archive(_USPS_URL + "usps.bz2"), Archive(_USPS_URL + "usps.t.bz2")),
        note="mean and std give back the published values in [-1, 1]; they are not measured",
    ),
    Card(
        id="cifar10",
        classes=10,
        train=50_000,
        size=(32, 32),
        channels=3,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        class_names=tuple(_CIFAR10.split()),
        augment=Augment(pad=4, flip=True),
        licence="not stated; cite the report",
        citation=_KRIZHEVSKY,
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        archives=(
            Archive(
                _CIFAR_URL + "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
    Card(
        id="cifar100",
        classes=100,
        train=50_000,
        size=(32, 32),
        channels=3,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        class_names=tuple(_CIFAR100.split()),
        augment=Augment(pad=4, flip=True),
        licence="not stated; cite the report",
        citation=_KRIZHEVSKY,
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        archives=(
            Archive(
                _CIFAR_URL + "cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
    ),
    Card(
        id="tiny_imagenet",
        classes=200,
        train=100_000,
        size=(64, 64),
        channels=3,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        class_names=None,
        augment=Augment(pad=8, flip=True),
        licence="research and teaching only (ImageNet's terms)",
        citation=_LE,
        url="http://cs231n.stanford.edu/",
        archives=(
            Archive(
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            ),
        ),
        note="classes are WordNet ids in sorted order; val/ is the test part, test/ has no labels",
    ),
    Card(
        id="imagenette",
        classes=10,
        train=9_469,
        size=(160, 160),
        channels=3,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        class_names=tuple(_IMAGENETTE.split()),
        augment=Augment(flip=True, area=(0.25, 1.0)),
        licence="Apache-2.0; the photographs under ImageNet's terms",
        citation=_HOWARD,
        url="https://github.com/fastai/imagenette",
        archives=(
            Archive(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
            ),
        ),
        note="tench, English springer, cassette player, chain saw, church, French horn, garbage "
        "truck, gas pump, golf ball, parachute; ImageNet's mean and std",
    ),
    Card(
        id="imagenet",
        classes=1000,
        train=1_281_167,
        size=(224, 224),
        channels=3,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        class_names=None,
        augment=Augment(flip=True, area=(0.08, 1.0)),
        licence="research only, by registration",
        citation=_RUSSAKOVSKY,
        url="https://image-net.org/download.php",
        note="ILSVRC 2012; classes are WordNet ids in sorted order; needs --data.resize",
    ),
)
CARDS = {card.id: card for card in _ALL}


def card(name: str, *, argument: str = "data.card") -> Card:
    """The card called ``name`` (``-`` counts as ``_``); `ConfigError` with the nearest name."""
    found = CARDS.get(name.replace("-", "_"))
    if found is None:
        raise errors.ConfigError(errors.choice(argument, name, CARDS))
    return found
