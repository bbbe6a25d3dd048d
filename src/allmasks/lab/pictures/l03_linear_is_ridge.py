"""The linear model: input dropout is ridge, weight by weight."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allmasks.dropped_scores import expected_score_loss
from allmasks.lab.controls import rate_control, say
from allmasks.lab.protocol import Answer, Chapter, Control, Question, nothing_chosen, words
from allmasks.language import Text
from allmasks.linear_model import DropoutRidge
from allmasks.methods import ClosedForm
from allmasks.report.figures import layout, line
from allmasks.results import ExpectedLoss

Array = NDArray[np.float64]
FEATURES = {
    "bmi": Text("body mass index", "체질량지수"),
    "bp": Text("blood pressure", "혈압"),
    "s3": Text("HDL cholesterol", "HDL 콜레스테롤"),
    "s5": Text("log triglycerides", "중성지방(로그)"),
}
SCALES = {"equal": Text("standardized", "표준화"), "own": Text("own scales", "원래 스케일")}
COLORS = ("@accent", "@second", "@third", "@fourth")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
PATH = np.concatenate([np.linspace(0, 0.9, 19), [0.95]])


@cache
def data(features: tuple[str, ...], scale: str) -> tuple[Array, Array]:
    """scikit-learn's diabetes data, centered: X (442, d) of these features, y (442,) in its standard deviations."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    X = found.data[:, [found.feature_names.index(name) for name in features]]
    X = X - X.mean(axis=0)
    y = (found.target - found.target.mean()) / found.target.std()
    # Own scales are told in tens, so that each of the weights can be seen.
    return (X / X.std(axis=0) if scale == "equal" else X / 10), y


def weights(features: tuple[str, ...], scale: str, p: float) -> Array:
    """What minimizes E_m[L] at this p."""
    X, y = data(features, scale)
    return np.asarray(DropoutRidge(p=p, fit_intercept=False).fit(X, y).coef_, np.float64)


@cache
def paths(features: tuple[str, ...], scale: str) -> dict[str, Array]:
    """Weights (20, d) over `PATH`: dropout's, ridge's with the mean λ, and the lasso's with as large a sum |w| sd."""
    from sklearn.linear_model import Ridge, lars_path

    X, y = data(features, scale)
    dropout = np.array([weights(features, scale, p) for p in PATH])
    lams = PATH / (1 - PATH) * (X**2).sum(axis=0).mean()
    ridge = np.array([Ridge(alpha=lam, fit_intercept=False).fit(X, y).coef_ for lam in lams])
    sd = X.std(axis=0)
    knots = lars_path(X / sd, y, method="lasso")[2].T
    size = abs(knots).sum(axis=1)
    wanted = np.minimum(abs(dropout * sd).sum(axis=1), size[-1])
    lasso = np.array([np.interp(wanted, size, column) for column in knots.T]).T / sd
    return {"dropout": dropout, "ridge": ridge, "lasso": lasso}


def work(p: float, features: tuple[str, ...], scale: str) -> Answer:
    if not features:
        return nothing_chosen(
            "No feature is chosen, so there is nothing to fit: choose at least one.",
            "고른 특성이 없어 적합할 것이 없습니다. 특성을 하나 이상 고르십시오.",
        )
    X, y = data(features, scale)
    sd = X.std(axis=0)
    found, plain = weights(features, scale, p), weights(features, scale, 0.0)
    strengths = p / (1 - p) * (X**2).sum(axis=0)
    by_ridge = np.linalg.solve(X.T @ X + np.diag(strengths), X.T @ y)
    loss = expected_score_loss(found, X, y, p, loss="squared_error", method=ClosedForm())
    figure = {
        "data": [*_surface(X, y, p, found, plain), *_paths(features, scale, sd, p)],
        "layout": layout(
            height=680,
            legend=True,
            xaxis={"title": {"text": _weight(features[0])}, "anchor": "y"},
            yaxis={
                "title": {"text": _weight(features[1]) if len(features) > 1 else Text("objective", "목적함수")},
                "domain": [0.56, 1],
            },
            xaxis2={"title": {"text": Text("drop rate p", "드롭율 p")}, "range": [0, 0.96], "anchor": "y2"},
            yaxis2={
                "title": {"text": Text("weight × sd of its feature", "가중치 × 특성의 표준편차")},
                "domain": [0, 0.38],
                "anchor": "x2",
            },
        ),
    }
    numbers = (
        words(
            "expected",
            "E_m[L] = data term + penalty",
            "E_m[L] = 원래 손실 + 페널티",
            loss.value,
            loss.error,
            loss.guarantee,
        ),
        words("data_term", "data term, mean (w·x − y)²", "원래 손실, (w·x − y)²의 평균", loss.weight_scaling_loss),
        words(
            "penalty",
            "penalty, Σ λⱼwⱼ²/n (n patients)",
            "페널티, Σ λⱼwⱼ²/n",
            loss.penalty,
            loss.penalty_error,
            loss.guarantee,
        ),
        *(
            words(f"lambda_{f}", f"λ of {FEATURES[f].en} = p/(1−p) Σx²", f"{FEATURES[f].ko}의 λ = p/(1−p) Σx²", v)
            for f, v in zip(features, strengths, strict=True)
        ),
        *(
            words(f"w_{f}", f"w of {FEATURES[f].en}", f"{FEATURES[f].ko}의 w", v)
            for f, v in zip(features, found, strict=True)
        ),
        words(
            "difference",
            "largest difference to ridge with these λ",
            "이 λ로 푼 릿지와의 최대 차이",
            abs(found - by_ridge).max(),
        ),
    )
    return Answer(
        figure, numbers, _sentence(p, features, scale, found, plain, float(abs(found - by_ridge).max()), loss)
    )


def _sentence(
    p: float,
    features: tuple[str, ...],
    scale: str,
    found: Array,
    plain: Array,
    difference: float,
    loss: ExpectedLoss,
) -> Text:
    X, y = data(features, scale)
    n, sd = len(y), X.std(axis=0)
    zeros = int((abs(paths(features, scale)["lasso"][-1]) < 1e-12).sum())
    gone = (
        Text(
            f"has {zeros} of {len(features)} weights at zero by p = 0.95",
            f"p = 0.95까지 {len(features)}개 가운데 {zeros}개가 0이 됩니다",
        )
        if zeros
        else Text("goes another way, and has none at zero yet", "다른 경로를 가며 아직 0이 된 것은 없습니다")
    )
    shrunk = float(np.sqrt((found * sd) @ (found * sd) / ((plain * sd) @ (plain * sd))))
    return Text(
        f"At p = {say(p)} the weights that minimize E_m[L] are {say(100 * shrunk)} % of the size of those without dropout. "
        f"They are those of ridge with λⱼ = p/(1−p) Σᵢ xᵢⱼ², to {difference:.1g}. "
        f"Over {n} patients E_m[L] = {say(loss.weight_scaling_loss)} + {say(loss.penalty)} = {say(loss.value)}. "
        + (
            f"Standardized features have one λ, so the paths of dropout and of plain ridge coincide; the lasso {gone.en}."
            if scale == "equal"
            else "The scales differ, so does λⱼ: dropout shrinks features of large scale in proportion, plain ridge those of small scale more."
        ),
        f"p = {say(p)}에서 E_m[L]을 최소화하는 가중치의 크기는 드롭아웃이 없을 때의 {say(100 * shrunk)} %입니다. "
        f"λⱼ = p/(1−p) Σᵢ xᵢⱼ²인 릿지의 해와 {difference:.1g} 이내로 같습니다. "
        f"환자 {n}명에 대해 E_m[L] = {say(loss.weight_scaling_loss)} + {say(loss.penalty)} = {say(loss.value)}입니다. "
        + (
            f"특성을 표준화하면 λ가 모두 같아 드롭아웃의 경로와 보통 릿지의 경로가 겹칩니다. 라쏘의 가중치는 {gone.ko}."
            if scale == "equal"
            else "스케일이 다르면 λⱼ도 다릅니다. 드롭아웃은 특성을 스케일에 맞추어 줄이고, 보통 릿지는 스케일이 작은 특성을 더 많이 줄입니다."
        ),
    )


def _weight(feature: str) -> Text:
    return Text(f"w of {FEATURES[feature].en}", f"{FEATURES[feature].ko}의 w")


def _surface(X: Array, y: Array, p: float, found: Array, plain: Array) -> list[dict[str, Any]]:
    """The objective over the first two weights, the others where they are best: with dropout and without."""
    gram, n = X.T @ X, len(y)
    dropped = gram + np.diag(p / (1 - p) * np.diag(gram))
    names = (Text("loss without dropout", "드롭아웃 없는 손실"), Text("E_m[L]", "E_m[L]"))
    rows: list[dict[str, Any]] = []
    for A, center, name, color, dash in (
        (gram, plain, names[0], "@muted", "dot"),
        (dropped, found, names[1], "@accent", "solid"),
    ):
        if len(plain) == 1:
            reach = np.linspace(min(0, plain[0] * 1.6), max(0, plain[0] * 1.6), 61)
            rows.append(
                line(
                    reach.tolist(),
                    (((y @ y) - 2 * reach * (X.T @ y)[0] + A[0, 0] * reach**2) / n).tolist(),
                    color,
                    dash=dash,
                    name=name,
                )
            )
            continue
        turn = np.linalg.cholesky(np.linalg.inv(A[:2, :2]))
        angle = np.linspace(0, 2 * np.pi, 61)
        for i, step in enumerate((0.01, 0.04, 0.09, 0.16)):
            x, v = center[:2, None] + np.sqrt(step * n) * turn @ np.array([np.cos(angle), np.sin(angle)])
            rows.append(
                line(
                    x.tolist(),
                    v.tolist(),
                    color,
                    dash=dash,
                    width=1 + (i == 0),
                    name=name,
                    legendgroup=name.en,
                    showlegend=i == 0,
                    hoverinfo="skip",
                )
            )
    for w, A, name, color, symbol in (
        (plain, gram, names[0], "@muted", "circle-open"),
        (found, dropped, names[1], "@accent", "diamond"),
    ):
        height = w[1] if len(w) > 1 else (y @ y - 2 * w[0] * (X.T @ y)[0] + A[0, 0] * w[0] ** 2) / n
        rows.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [w[0]],
                "y": [height],
                "marker": {"color": color, "symbol": symbol, "size": 12},
                "name": Text(f"minimum: {name.en}", f"최솟점: {name.ko}"),
                "showlegend": False,
            }
        )
    return rows


def _paths(features: tuple[str, ...], scale: str, sd: Array, p: float) -> list[dict[str, Any]]:
    """Each weight over p, in one color; dropout, ridge and lasso in one dash each."""
    rows: list[dict[str, Any]] = []
    kinds = (
        ("dropout", Text("dropout", "드롭아웃"), "solid"),
        ("ridge", Text("ridge", "릿지"), "dash"),
        ("lasso", Text("lasso", "라쏘"), "dot"),
    )
    for kind, title, dash in kinds:
        rows.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [None],
                "y": [None],
                "name": title,
                "line": {"color": "@ink", "dash": dash},
                "xaxis": "x2",
                "yaxis": "y2",
            }
        )
        for j, name in enumerate(features):
            values = paths(features, scale)[kind][:, j] * sd[j]
            rows.append(
                line(
                    PATH.tolist(),
                    values.tolist(),
                    COLORS[list(FEATURES).index(name)],
                    dash=dash,
                    xaxis="x2",
                    yaxis="y2",
                    showlegend=False,
                    name=FEATURES[name],
                )
            )
    here = weights(features, scale, p) * sd
    for j, name in enumerate(features):
        i = list(FEATURES).index(name)
        rows.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [p],
                "y": [here[j]],
                "name": FEATURES[name],
                "xaxis": "x2",
                "yaxis": "y2",
                "marker": {"color": COLORS[i], "symbol": SYMBOLS[i], "size": 10},
            }
        )
    return rows


def code(p: float, features: tuple[str, ...], scale: str) -> str:
    scaled = "X / X.std(axis=0)" if scale == "equal" else "X / 10"
    return f"""\
import numpy as np
from sklearn.datasets import load_diabetes
import allmasks as am

data = load_diabetes(scaled=False)
features = {list(features)}
X = data.data[:, [data.feature_names.index(f) for f in features]]
X = X - X.mean(axis=0)
X = {scaled}
y = (data.target - data.target.mean()) / data.target.std()
model = am.linear_model.DropoutRidge(p={p}, fit_intercept=False).fit(X, y)
print("w", model.coef_, "lambda", model.equivalent_penalty_)
found = am.expected_score_loss(model.coef_, X, y, {p}, loss="squared_error")
print("E_m[L]", found.value, "= data term", found.weight_scaling_loss, "+ penalty", found.penalty)
"""


CHAPTER = Chapter(
    number=3,
    key="linear-is-ridge",
    title=Text("Linear model: dropout is ridge", "선형 모델: 드롭아웃은 릿지입니다"),
    asks=Text(
        "To what is dropout equal where everything can be computed by hand?",
        "모든 것을 손으로 계산할 수 있는 경우에 드롭아웃은 무엇과 같습니까?",
    ),
    says=Text(
        "E_m[(wᵀx̃ − y)²] = (wᵀx − y)² + p/(1−p) Σⱼ wⱼ²xⱼ²: the original squared error and a weighted L2 penalty. "
        "Dropout = scaled ridge, exactly, for input dropout, squared loss and a linear model.",
        "E_m[(wᵀx̃ − y)²] = (wᵀx − y)² + p/(1−p) Σⱼ wⱼ²xⱼ²입니다. 첫 항은 원래 제곱오차, 둘째 항은 가중 L2 패널티입니다. "
        "입력 드롭아웃, 제곱손실, 선형 모델에서는 드롭아웃 = (스케일된) 릿지가 정확히 성립합니다.",
    ),
    section=Text("3. Linear regression in closed form; example 2", "3. 선형회귀에서의 닫힌형식, 예시 2"),
    controls=(
        rate_control(),
        Control("features", Text("features", "특성"), tuple(FEATURES), ("bmi", "s5"), kind="pick", names=FEATURES),
        Control(
            "scale", Text("scale of the features", "특성의 스케일"), tuple(SCALES), "equal", kind="choice", names=SCALES
        ),
    ),
    work=work,
    to_try=Text(
        "Pull p to 0.9 and follow the diamond: the ellipses close around 0 and get rounder. Then switch to own scales: dashed and solid lines part.",
        "p를 0.9까지 올리며 마름모를 따라가 보십시오. 타원이 0으로 모이면서 둥글어집니다. 그런 다음 원래 스케일로 바꾸면 파선과 실선이 갈라집니다.",
    ),
    question=Question(
        Text(
            "Standardized features, all 442 patients: which λ is the same as p = 0.8?",
            "표준화한 특성과 환자 442명 전체에서, p = 0.8과 같은 λ는 얼마입니까?",
        ),
        lambda: work(0.8, ("bmi",), "equal").value("lambda_bmi"),
        1.0,
        Text(
            "Set p = 0.8 and read λ; compare λ at p = 0.5.",
            "p = 0.8로 놓고 λ를 읽으십시오. p = 0.5의 λ와 비교해 보십시오.",
        ),
    ),
    code=code,
    terms=Text(
        "A linear model predicts y, here how far a disease has advanced, as a sum of features x, each "
        "times a weight w. Ridge is the usual way to keep weights small: it minimizes the squared error "
        "plus λ w² (an L2 penalty), so a larger λ means smaller weights; the lasso punishes |w| "
        "instead. Here dropout drops features. In the upper picture all points of an ellipse are "
        "equally good weights, and the mark in its middle is the best; the lower one shows the best "
        "weights for each p.",
        "선형 모델은 특성 x에 가중치 w를 곱해 더한 값으로 y(여기서는 질병의 진행 정도)를 예측합니다. 릿지는 가중치를 작게 유지하는 흔한 방법으로, 제곱오차에 λ "
        "w²(L2 패널티)을 더한 값을 최소화합니다. λ가 클수록 가중치는 작아집니다. 라쏘는 w² 대신 |w|를 씁니다. 여기서 드롭아웃이 끄는 것은 특성입니다. 위 그림에서 "
        "한 타원 위의 점은 모두 똑같이 좋은 가중치이고, 한가운데의 표시가 가장 좋은 가중치입니다. 아래 그림은 p마다 가장 좋은 가중치를 보여 줍니다.",
    ),
)
