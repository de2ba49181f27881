"""The look that all figures share: paper fonts and sizes, colours that survive colour blindness and grey print, files that are the same every time."""
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
FILLS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#BBBBBB", "#FFFFFF", "#8A6FBF")  # for areas that carry a hatch
HATCHES = ("", "//", "\\\\", "xx", "..", "--", "oo", "++", "**", "||")
COLUMN_INCHES = 3.33
PAGE_INCHES = 7.0


def apply():
    """Sets the style for every figure made afterwards."""
    plt.rcParams.update(
        {
            "font.family": "STIXGeneral",
            "mathtext.fontset": "stix",
            "font.size": 8,
            "axes.titlesize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "axes.linewidth": 0.6,
            "lines.linewidth": 1.1,
            "hatch.linewidth": 0.4,
            "legend.frameon": False,
            "pdf.fonttype": 42,
            "svg.hashsalt": "moekv",
            "axes.prop_cycle": plt.cycler(color=OKABE_ITO),
        }
    )


def save(figure, path, dpi=200, close=True):
    """Writes png, pdf or svg without dates or versions, so that the same data gives the same bytes. close=False keeps the figure for another format."""
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "svg": {"Date": None}}
    suffix = str(path).rsplit(".", 1)[-1].lower()
    if suffix not in metadata:
        raise ValueError(f"{path}: figures are png, pdf or svg")
    figure.savefig(path, dpi=dpi, metadata=metadata[suffix])
    if close:
        plt.close(figure)
