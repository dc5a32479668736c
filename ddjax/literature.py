"""Papers of methods and protocols by the names that people give them: what a set of others and a run cite.

method("sre2l") -> ("SRe2L", "@inproceedings{yin2023squeeze, ...")        of_protocol("P-RDED") -> [its paper]
"""

import re
from typing import NamedTuple

from ddjax.errors import nearest

_CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)"
_ICCV = "IEEE/CVF International Conference on Computer Vision (ICCV)"
_ICLR = "International Conference on Learning Representations (ICLR)"
_ICML = "International Conference on Machine Learning (ICML)"
_NEURIPS = "Advances in Neural Information Processing Systems (NeurIPS)"
_ECCV = "European Conference on Computer Vision (ECCV)"
_WACV = "IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)"


class Paper(NamedTuple):
    """One paper; authors as BibTeX joins them, without the ``and``."""

    key: str
    authors: str
    title: str
    venue: str
    year: int

    @property
    def bibtex(self) -> str:
        """The entry."""
        kind, where = ("article", "journal") if self.venue.startswith(("arXiv", "Trans")) else (
            "inproceedings", "booktitle"
        )  # fmt: skip
        fields = {"author": self.authors.replace("; ", " and "), "title": self.title, where: self.venue}
        lines = [f"  {name} = {{{value}}}," for name, value in (fields | {"year": str(self.year)}).items()]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])

    @property
    def short(self) -> str:
        """``Zhou et al., NeurIPS 2022``."""
        names = [name.partition(",")[0] for name in self.authors.split("; ")]
        who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
        inner = re.search(r"\((\w+)\)$", self.venue) or re.match(r"(arXiv)", self.venue)
        return f"{who}, {inner[1] if inner else self.venue} {self.year}"


_ALL = (
    Paper("wang2018dataset", "Wang, Tongzhou; Zhu, Jun-Yan; Torralba, Antonio; Efros, Alexei A.",
          "Dataset Distillation", "arXiv preprint arXiv:1811.10959", 2018),
    Paper("zhao2021condensation", "Zhao, Bo; Mopuri, Konda Reddy; Bilen, Hakan",
          "Dataset Condensation with Gradient Matching", _ICLR, 2021),
    Paper("zhao2021siamese", "Zhao, Bo; Bilen, Hakan",
          "Dataset Condensation with Differentiable Siamese Augmentation", _ICML, 2021),
    Paper("zhao2023distribution", "Zhao, Bo; Bilen, Hakan",
          "Dataset Condensation with Distribution Matching", _WACV, 2023),
    Paper("nguyen2021kip", "Nguyen, Timothy; Novak, Roman; Xiao, Lechao; Lee, Jaehoon",
          "Dataset Distillation with Infinitely Wide Convolutional Networks", _NEURIPS, 2021),
    Paper("wang2022cafe", "Wang, Kai; Zhao, Bo; Peng, Xiangyu; Zhu, Zheng; Yang, Shuo; Wang, Shuo; Huang, Guan; "
          "Bilen, Hakan; Wang, Xinchao; You, Yang", "{CAFE}: Learning to Condense Dataset by Aligning Features", _CVPR,
          2022),
    Paper("kim2022efficient", "Kim, Jang-Hyun; Kim, Jinuk; Oh, Seong Joon; Yun, Sangdoo; Song, Hwanjun; "
          "Jeong, Joonhyun; Ha, Jung-Woo; Song, Hyun Oh",
          "Dataset Condensation via Efficient Synthetic-Data Parameterization", _ICML, 2022),
    Paper("cazenavette2022trajectories", "Cazenavette, George; Wang, Tongzhou; Torralba, Antonio; Efros, Alexei A.; "
          "Zhu, Jun-Yan", "Dataset Distillation by Matching Training Trajectories", _CVPR, 2022),
    Paper("zhou2022regression", "Zhou, Yongchao; Nezhadarya, Ehsan; Ba, Jimmy",
          "Dataset Distillation using Neural Feature Regression", _NEURIPS, 2022),
    Paper("loo2022random", "Loo, Noel; Hasani, Ramin; Amini, Alexander; Rus, Daniela",
          "Efficient Dataset Distillation using Random Feature Approximation", _NEURIPS, 2022),
    Paper("liu2022factorization", "Liu, Songhua; Wang, Kai; Yang, Xingyi; Ye, Jingwen; Wang, Xinchao",
          "Dataset Distillation via Factorization", _NEURIPS, 2022),
    Paper("deng2022remember", "Deng, Zhiwei; Russakovsky, Olga",
          "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks", _NEURIPS, 2022),
    Paper("shen2022fast", "Shen, Zhiqiang; Xing, Eric",
          "A Fast Knowledge Distillation Framework for Visual Recognition", _ECCV, 2022),
    Paper("zhao2023improved", "Zhao, Ganlong; Li, Guanbin; Qin, Yipeng; Yu, Yizhou",
          "Improved Distribution Matching for Dataset Condensation", _CVPR, 2023),
    Paper("cui2023scaling", "Cui, Justin; Wang, Ruochen; Si, Si; Hsieh, Cho-Jui",
          "Scaling Up Dataset Distillation to {ImageNet-1K} with Constant Memory", _ICML, 2023),
    Paper("du2023minimizing", "Du, Jiawei; Jiang, Yidi; Tan, Vincent Y. F.; Zhou, Joey Tianyi; Li, Haizhou",
          "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", _CVPR, 2023),
    Paper("cazenavette2023prior", "Cazenavette, George; Wang, Tongzhou; Torralba, Antonio; Efros, Alexei A.; "
          "Zhu, Jun-Yan", "Generalizing Dataset Distillation via Deep Generative Prior", _CVPR, 2023),
    Paper("sajedi2023datadam", "Sajedi, Ahmad; Khaki, Samir; Amjadian, Ehsan; Liu, Lucy Z.; Lawryshyn, Yuri A.; "
          "Plataniotis, Konstantinos N.", "{DataDAM}: Efficient Dataset Distillation with Attention Matching", _ICCV,
          2023),
    Paper("liu2023dream", "Liu, Yanqing; Gu, Jianyang; Wang, Kai; Zhu, Zheng; Jiang, Wei; You, Yang",
          "{DREAM}: Efficient Dataset Distillation by Representative Matching", _ICCV, 2023),
    Paper("yin2023squeeze", "Yin, Zeyuan; Xing, Eric; Shen, Zhiqiang",
          "Squeeze, Recover and Relabel: Dataset Condensation at {ImageNet} Scale From A New Perspective", _NEURIPS,
          2023),
    Paper("guo2024lossless", "Guo, Ziyao; Wang, Kai; Cazenavette, George; Li, Hui; Zhang, Kaipeng; You, Yang",
          "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", _ICLR, 2024),
    Paper("feng2024embarrassingly", "Feng, Yunzhen; Vedantam, Ramakrishna; Kempe, Julia",
          "Embarrassingly Simple Dataset Distillation", _ICLR, 2024),
    Paper("zhang2024m3d", "Zhang, Hansong; Li, Shikun; Wang, Pengju; Zeng, Dan; Ge, Shiming",
          "{M3D}: Dataset Condensation by Minimizing Maximum Mean Discrepancy",
          "AAAI Conference on Artificial Intelligence (AAAI)", 2024),
    Paper("shao2024generalized", "Shao, Shitong; Yin, Zeyuan; Zhou, Muxin; Zhang, Xindong; Shen, Zhiqiang",
          "Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching", _CVPR, 2024),
    Paper("sun2024diversity", "Sun, Peng; Shi, Bei; Yu, Daiwei; Lin, Tao",
          "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm", _CVPR, 2024),
    Paper("su2024d4m", "Su, Duo; Hou, Junjie; Gao, Weizhi; Tian, Yingjie; Tang, Bowen",
          "{D4M}: Dataset Distillation via Disentangled Diffusion Model", _CVPR, 2024),
    Paper("gu2024minimax", "Gu, Jianyang; Vahidian, Saeed; Kungurtsev, Vyacheslav; Wang, Haonan; Jiang, Wei; "
          "You, Yang; Chen, Yiran", "Efficient Dataset Distillation via Minimax Diffusion", _CVPR, 2024),
    Paper("yin2024curriculum", "Yin, Zeyuan; Shen, Zhiqiang",
          "Dataset Distillation via Curriculum Data Synthesis in Large Data Era",
          "Transactions on Machine Learning Research (TMLR)", 2024),
    Paper("shao2024elucidating", "Shao, Shitong; Zhou, Zikai; Chen, Huanran; Shen, Zhiqiang",
          "Elucidating the Design Space of Dataset Condensation", _NEURIPS, 2024),
    Paper("du2024diversity", "Du, Jiawei; Zhang, Xin; Hu, Juncheng; Huang, Wenxin; Zhou, Joey Tianyi",
          "Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment", _NEURIPS,
          2024),
    Paper("yu2024teddy", "Yu, Ruonan; Liu, Songhua; Ye, Jingwen; Wang, Xinchao",
          "Teddy: Efficient Large-Scale Dataset Distillation via Taylor-Approximated Matching", _ECCV, 2024),
    Paper("wang2025ncfm", "Wang, Shaobo; Yang, Yicun; Liu, Zhiyuan; Sun, Chenghao; Hu, Xuming; He, Conghui; "
          "Zhang, Linfeng", "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", _CVPR,
          2025),
    Paper("li2025ranking", "Li, Zekai; Zhong, Xinhao; Khaki, Samir; others",
          "{DD-Ranking}: Rethinking the Evaluation of Dataset Distillation", "arXiv preprint arXiv:2505.13300", 2025),
    Paper("qin2024label", "Qin, Tian; Deng, Zhiwei; Alvarez-Melis, David",
          "A Label is Worth a Thousand Images in Dataset Distillation", _NEURIPS, 2024),
    Paper("naeem2020reliable", "Naeem, Muhammad Ferjad; Oh, Seong Joon; Uh, Youngjung; Choi, Yunjey; Yoo, Jaejun",
          "Reliable Fidelity and Diversity Metrics for Generative Models", _ICML, 2020),
    Paper("prabhu2020gdumb", "Prabhu, Ameya; Torr, Philip H. S.; Dokania, Puneet K.",
          "{GDumb}: A Simple Approach that Questions Our Progress in Continual Learning", _ECCV, 2020),
    Paper("yeom2018privacy", "Yeom, Samuel; Giacomelli, Irene; Fredrikson, Matt; Jha, Somesh",
          "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting",
          "IEEE Computer Security Foundations Symposium (CSF)", 2018),
    Paper("carlini2022membership", "Carlini, Nicholas; Chien, Steve; Nasr, Milad; Song, Shuang; Terzis, Andreas; "
          "Tramer, Florian", "Membership Inference Attacks From First Principles",
          "IEEE Symposium on Security and Privacy (SP)", 2022),
    Paper("toneva2019empirical", "Toneva, Mariya; Sordoni, Alessandro; des Combes, Remi Tachet; "
          "Trischler, Adam; Bengio, Yoshua; Gordon, Geoffrey J.",
          "An Empirical Study of Example Forgetting during Deep Neural Network Learning", _ICLR, 2019),
    Paper("sener2018active", "Sener, Ozan; Savarese, Silvio",
          "Active Learning for Convolutional Neural Networks: A Core-Set Approach", _ICLR, 2018),
    Paper("welling2009herding", "Welling, Max",
          "Herding Dynamical Weights to Learn", _ICML, 2009),
    Paper("cui2022dcbench", "Cui, Justin; Wang, Ruochen; Si, Si; Hsieh, Cho-Jui",
          "{DC-BENCH}: Dataset Condensation Benchmark", _NEURIPS, 2022),
    Paper("nguyen2021dataset", "Nguyen, Timothy; Chen, Zhourong; Lee, Jaehoon",
          "Dataset Meta-Learning from Kernel Ridge-Regression", _ICLR, 2021),
    Paper("bohdal2020flexible", "Bohdal, Ondrej; Yang, Yongxin; Hospedales, Timothy",
          "Flexible Dataset Distillation: Learn Labels Instead of Images", "NeurIPS Workshop on Meta-Learning", 2020),
    Paper("cui2025fadrm", "Cui, Jiacheng; Bi, Xinyue; Luo, Yaxin; Zhao, Xiaohan; Liu, Jiacheng; "
          "Shen, Zhiqiang",
          "{FADRM}: Fast and Accurate Data Residual Matching for Dataset Distillation", _NEURIPS, 2025),
)  # fmt: skip
PAPERS = {paper.key: paper for paper in _ALL}
METHODS = {  # the name as its paper writes it: the paper
    "DD": "wang2018dataset", "DC": "zhao2021condensation", "DSA": "zhao2021siamese", "DM": "zhao2023distribution",
    "CAFE": "wang2022cafe", "IDC": "kim2022efficient", "IDM": "zhao2023improved", "DataDAM": "sajedi2023datadam",
    "DREAM": "liu2023dream", "M3D": "zhang2024m3d", "NCFM": "wang2025ncfm", "MTT": "cazenavette2022trajectories",
    "TESLA": "cui2023scaling", "FTD": "du2023minimizing", "DATM": "guo2024lossless", "GLaD": "cazenavette2023prior",
    "KIP": "nguyen2021dataset", "KIP-Conv": "nguyen2021kip", "FRePo": "zhou2022regression", "RFAD": "loo2022random",
    "HaBa": "liu2022factorization",
    "LinBa": "deng2022remember", "RaT-BPTT": "feng2024embarrassingly", "SRe2L": "yin2023squeeze",
    "CDA": "yin2024curriculum", "G-VBSM": "shao2024generalized", "RDED": "sun2024diversity", "D4M": "su2024d4m",
    "Minimax": "gu2024minimax", "EDC": "shao2024elucidating", "DWA": "du2024diversity", "Teddy": "yu2024teddy",
    "FADRM": "cui2025fadrm", "LD": "bohdal2020flexible", "Herding": "welling2009herding", "k-center": "sener2018active",
    "k-means": "cui2022dcbench", "Forgetting": "toneva2019empirical",
}  # fmt: skip
PROTOCOLS = {
    "P-DC": ("zhao2021condensation", "zhao2021siamese"), "P-MTT": ("cazenavette2022trajectories",),
    "P-IDC": ("kim2022efficient",), "P-FRePo": ("zhou2022regression",), "P-FKD": ("yin2023squeeze", "shen2022fast"),
    "P-RDED": ("sun2024diversity",), "P-EDC": ("shao2024elucidating",), "P-HL": ("li2025ranking",),
}  # fmt: skip
PIECES = {  # baselines, further evaluations and scores by their names
    "herding": ("welling2009herding",), "kcenter": ("sener2018active",), "kmeans": ("cui2022dcbench",),
    "forgetting": ("toneva2019empirical",), "random_soft": ("qin2024label",), "random_early_soft": ("qin2024label",),
    "coverage": ("naeem2020reliable",), "continual": ("prabhu2020gdumb",), "scores": ("li2025ranking",),
    "privacy": ("yeom2018privacy", "carlini2022membership"), "augmentation": ("li2025ranking",),
}  # fmt: skip


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


_BY_NAME = {_plain(name): name for name in METHODS}


def method(name: str) -> tuple[str, Paper] | None:
    """The name as its paper writes it, and the paper; None for a method that is not in the table."""
    found = _BY_NAME.get(_plain(name))
    return None if found is None else (found, PAPERS[METHODS[found]])


def near(name: str) -> str | None:
    """The known method whose name is like ``name``."""
    found = nearest(_plain(name), _BY_NAME)
    return None if found is None else _BY_NAME[found]


def of_protocol(name: str) -> list[Paper]:
    """The papers of a protocol, of a modified one, one "with dsa", or one that looks at the test split; [] for ours."""
    plain = name.partition(" ")[0].partition("+")[0].removesuffix("-best-on-test")
    return [PAPERS[key] for key in PROTOCOLS.get(plain, ())]
