"""Recipe sections that mean the same in every stage: version, data, evaluate, measure, gate, skip."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mlcompress.recipe.base import Count, Positive, Section, Threads
from mlcompress.recipe.train import TrainSection

# ---------------------------------------------------------------- model


class ModelInput(Section):
    """One input of a model whose file does not describe it."""

    shape: list[Count | str] | None = Field(
        None, description="lengths, a word for an axis that may have any: [batch, 3, 224, 224]"
    )
    dtype: Literal["float32", "float16", "float64", "int8", "int32", "int64", "uint8", "bool"] = "float32"


class ModelSection(Section):
    """What a checkpoint that is not an ONNX file leaves open; without effect on one that is."""

    factory: str | None = Field(None, description="pkg.module:function that builds the torch module")
    kwargs: dict[str, Any] = Field({}, description="arguments of the factory")
    inputs: dict[str, ModelInput] = Field(
        {}, description="inputs in the order of the module's forward, by the name they get"
    )
    outputs: list[str] = Field(
        [], description="names of the outputs, in order; output, output_1, ... by default"
    )


# ---------------------------------------------------------------- data


class Normalize(Section):
    """(x - mean) / std, per channel or one number for all."""

    mean: list[float] = Field(description="one number, or one a channel")
    std: list[Positive] = Field(description="as mean")


class Transform(Section):
    """One step from stored values to model inputs; exactly one key is set."""

    scale: float | None = Field(None, description="multiply by this number")
    normalize: Normalize | None = Field(None, description="subtract mean, divide by std, per channel")
    layout: Literal["NCHW", "NHWC"] | None = Field(None, description="axis order that the model wants")
    cast: Literal["float32", "float16", "float64", "int32", "int64"] | None = Field(None, description="dtype")
    resize: Count | None = Field(None, description="shorter side of an image, in pixels")
    crop: Count | None = Field(None, description="side of the central square, in pixels")

    @model_validator(mode="after")
    def _one_key(self) -> "Transform":
        if len(self.model_fields_set) != 1:
            raise ValueError("one transform per list entry, such as `- {scale: 0.00392157}`")
        return self


class DataEntry(Section):
    """One set of samples. Exactly one source: path, images, table, python or synthetic."""

    path: str | None = Field(None, description=".npz file, or a folder of .npy files (memory-mapped)")
    images: str | None = Field(None, description="folder with one sub-folder of images per class")
    table: str | None = Field(None, description=".csv or .parquet file")
    python: str | None = Field(None, description="pkg.module:function that returns {name: array}")
    synthetic: bool | None = Field(None, description="random inputs; marks card and report")
    kwargs: dict[str, Any] = Field({}, description="arguments of the python function")
    inputs: dict[str, str | list[str]] | None = Field(
        None, description="model input: array name (table: column names)"
    )
    label: str | None = Field(None, description="array or column of labels")
    size: Count | None = Field(None, description="images: side in pixels after resize and central crop")
    transforms: list[Transform] | None = Field(None, description="steps applied to the inputs, in order")
    limit: Count | None = Field(None, description="use the first samples only")
    samples: Count | None = Field(None, description="draw this many, seeded")


class DataSection(Section):
    """Keys that the other entries leave out come from `train`, unless they name their own `inputs`."""

    train: DataEntry | None = Field(
        None, description="what is trained on; the other entries take from it what they leave out"
    )
    validation: DataEntry | None = Field(
        None, description="chooses the best epoch; a share of `train` by default"
    )
    calibration: DataEntry | None = Field(
        None,
        description="ranges of activations, batch-norm statistics; a source of its own or samples of `train`",
    )
    evaluate: DataEntry | None = Field(None, description="what input and result are judged on")


# ---------------------------------------------------------------- evaluate, measure, gate


class Evaluate(Section):
    """How good a model is, measured with onnxruntime on `data.evaluate`."""

    metric: Literal["top1", "top5", "f1", "mse", "cosine", "agreement", "snr"] = "top1"
    output: str | None = Field(None, description="model output to judge; the first by default")
    batch_size: Count = Field(256, description="samples run at once")

    @model_validator(mode="before")
    @classmethod
    def _metric_as_mapping(cls, value: Any) -> Any:
        """`metric: {name: top1, output: logits}` means the same as `metric: top1, output: logits`."""
        if isinstance(value, dict) and isinstance(value.get("metric"), dict):
            options = dict(value["metric"])
            return {
                **{k: v for k, v in value.items() if k != "metric"},
                "metric": options.pop("name", None),
                **options,
            }
        return value


class Measure(Section):
    """Latency through onnxruntime execution providers."""

    providers: list[str] = Field(["cpu"], min_length=1, description="the first is the one that gates look at")
    optional: list[str] = Field(
        [], description="providers that may be missing: then they are skipped, and it is said"
    )
    batch_size: Annotated[int, Field(ge=1, le=65536)] = Field(1, description="where the model leaves it open")
    threads: Threads = Field(1, description="threads of one operator; 0: all cores")
    repeats: Count = Field(7, description="each interleaves all models; their spread is the interval")
    shapes: dict[str, list[int]] = Field({}, description="values for dynamic axes: {input: [1, 128]}")
    strict: bool = Field(False, description="fail if any node falls back to another provider")


class Gate(Section):
    """Limits; one that is missed gives exit status 1 and leaves OUTPUT untouched."""

    max_drop: float | None = Field(None, description="metric before minus after")
    max_relative_drop: float | None = Field(None, description="the same as a share of the metric before")
    min_metric: float | None = Field(None, description="metric after")
    max_metric: float | None = Field(None, description="for errors such as mse")
    min_speedup: Positive | None = Field(None, description="latency before / after")
    max_latency_ms: Positive | None = Field(None, description="median, in milliseconds")
    max_size_ratio: Positive | None = Field(None, description="bytes after / before")
    max_bytes: Count | None = Field(None, description="bytes after")
    baseline: str | None = Field(
        None, description="a model file that takes the place of the input as `before`"
    )


class Shared(Section):
    """The sections that every stage's recipe has."""

    version: Literal[1] = Field(1, description="of the recipe language")
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    evaluate: Evaluate = Evaluate()
    measure: Measure = Measure()
    gate: Gate = Gate()
    skip: list[str] = Field([], description='globs on node or tensor names, or an op type: ["fc", "op:Gemm"]')
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of everything random")

    @model_validator(mode="after")
    def _drops_are_shares(self) -> "Shared":
        drop, metric = self.gate.max_drop or 0, self.evaluate.metric
        if metric in ("top1", "top5", "f1", "agreement") and drop > 1:
            told = f"{metric} is a share, {drop:g} would allow all; write {drop / 100:g} for {drop:g} points"
            raise ValueError(f"gate.max_drop: {told}")
        return self

    def needs(self) -> dict[str, bool]:
        """Data entries that the stage cannot do without, and whether they must have labels."""
        return {}
