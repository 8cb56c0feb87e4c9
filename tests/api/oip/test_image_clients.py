"""Triton's example programs for pictures, and load generators: clients that send what the metadata list."""

import json
import queue
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from tests.api.oip.image_clients import (
    Listed,
    as_dictionary,
    batches,
    check_image_model,
    described,
    prepared,
    ranked,
    request,
)
from tests.api.oip.served import PATIENCE_S, Served, tensor
from tests.tiny import logits_of_plain, plain

LEVELS = {plain(level): level for level in (10, 100, 130, 200, 250)}
LABELS = ("dark", "bright")


def check_ranked(output: npt.NDArray[Any], levels: list[int]) -> None:
    """Check both classes of flat grey pictures against the tiny graph's weights, the most probable class first."""
    for row, level in zip(ranked(output), levels, strict=True):
        powers = np.exp(logits_of_plain(level))
        order = np.argsort(-powers)
        assert [entry[1:] for entry in row] == [(index, LABELS[index]) for index in order]
        assert [entry[0] for entry in row] == pytest.approx((powers / powers.sum())[order].tolist(), abs=1e-5)


def prepared_batches(listed: Listed) -> list[tuple[list[int], npt.NDArray[Any]]]:
    """Return the grey levels of each batch of three pictures, and its pixels."""
    inception = listed.datatype == "FP32"  # which is what the tiny card asks for
    return [
        ([LEVELS[data] for data in batch], np.stack([prepared(data, listed, inception=inception) for data in batch]))
        for batch in batches(list(LEVELS), 3)
    ]


@pytest.mark.parametrize("model", ["tiny.tensor", "tiny.pixels"])
def test_image_client_is_answered_in_turn(client: Any, triton: ModuleType, model: str) -> None:
    listed = check_image_model(*described(client, model))
    assert listed.max_batch_size == 4
    for levels, batch in prepared_batches(listed):
        answer = client.infer(model, **request(triton, listed, batch, classes=2))
        check_ranked(answer.as_numpy(listed.output), levels)


def test_image_client_is_answered_asynchronously_over_http(served: Served) -> None:
    with triton_http.InferenceServerClient(served.http, concurrency=20) as client:
        listed = check_image_model(*described(client, "tiny.tensor"))
        sent = [
            (levels, client.async_infer("tiny.tensor", **request(triton_http, listed, batch, classes=2)))
            for levels, batch in prepared_batches(listed)
        ]
        for levels, handle in sent:
            check_ranked(handle.get_result().as_numpy(listed.output), levels)


def test_image_client_is_answered_asynchronously_over_grpc(served: Served) -> None:
    results: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(served.grpc) as client:
        listed = check_image_model(*described(client, "tiny.tensor"))
        prepared_here = prepared_batches(listed)
        for number, (_, batch) in enumerate(prepared_here):
            asked = request(triton_grpc, listed, batch, classes=2) | {"request_id": str(number)}
            client.async_infer("tiny.tensor", callback=lambda result, error: results.put((result, error)), **asked)
        for _ in prepared_here:
            result, error = results.get(timeout=PATIENCE_S)
            assert error is None
            check_ranked(result.as_numpy(listed.output), prepared_here[int(result.get_response().id)][0])


@pytest.mark.parametrize("model", ["tiny.tensor", "tiny.pixels"])
def test_grpc_image_client_is_answered_by_bare_stubs_as_futures_and_as_a_stream(served: Served, model: str) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model))
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config
        listed = check_image_model(as_dictionary(metadata), as_dictionary(config))
        all_levels, messages = list[list[int]](), list[Any]()
        for levels, batch in prepared_batches(listed):
            message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[batch.tobytes()])
            message.inputs.add(name=listed.input, datatype=listed.datatype, shape=batch.shape)
            message.outputs.add(name=listed.output).parameters["classification"].int64_param = 2
            all_levels.append(levels)
            messages.append(message)
        futures = [stub.ModelInfer.future(message) for message in messages]
        answers = [future.result(PATIENCE_S) for future in futures]
        answers += [streamed.infer_response for streamed in stub.ModelStreamInfer(iter(messages))]
    for levels, answer in zip(all_levels * 2, answers, strict=True):
        assert (len(answer.outputs), len(answer.raw_output_contents)) == (1, 1)
        texts = deserialize_bytes_tensor(answer.raw_output_contents[0])
        check_ranked(np.reshape(texts, tuple(answer.outputs[0].shape)), levels)


def test_ensemble_image_client_is_answered_for_all_files_of_a_folder(client: Any, triton: Any) -> None:
    metadata, config = described(client, "tiny")
    assert (len(metadata["inputs"]), len(config["input"])) == (1, 1)
    files = list(LEVELS)[: config["max_batch_size"]]
    batch = np.stack([np.array([data], dtype=bytes) for data in files])  # of shape (N, 1)
    names = [output["name"] for output in metadata["outputs"]]
    outputs = [triton.InferRequestedOutput(name, class_count=2) for name in names]
    answer = client.infer("tiny", [tensor(triton, metadata["inputs"][0]["name"], batch, "BYTES")], outputs=outputs)
    for name in names:
        check_ranked(answer.as_numpy(name), [LEVELS[data] for data in files])


@pytest.mark.parametrize(
    "model", ["tiny.pixels", "tiny.tensor", "churn", "churn.columns", "machine-anomaly", "machine-anomaly.columns"]
)
def test_a_load_generator_that_fills_in_what_is_listed_gets_answers(client: Any, triton: Any, model: str) -> None:
    # As perf_analyzer does: a size that may vary is an error, the batch axis aside. Rows are the configuration's
    # example, bytes are random, and other numbers are zero, because random bytes are not always finite numbers.
    metadata, config = described(client, model)
    example = config["parameters"].get("example", {"string_value": '{"data": [{}]}'})
    values = json.loads(example["string_value"])["data"][0]
    generator, count, inputs = np.random.default_rng(0), 3, []
    for entry in metadata["inputs"]:
        sizes = [int(size) for size in entry["shape"][1:]]
        assert -1 not in sizes
        dtype = np.dtype(triton_to_np_dtype(entry["datatype"]))
        filling = generator.integers(0, 256, sizes) if dtype == np.uint8 else np.zeros(sizes)
        item = np.array(values.get(entry["name"], filling), dtype).reshape(sizes)
        inputs.append(tensor(triton, entry["name"], np.stack([item] * count), entry["datatype"]))
    outputs = [triton.InferRequestedOutput(output["name"]) for output in metadata["outputs"]]
    answer = client.infer(model, inputs, outputs=outputs)
    for output in metadata["outputs"]:
        array = answer.as_numpy(output["name"])
        assert array.shape == (count, *(int(size) for size in output["shape"][1:]))
        assert np.isfinite(array).all()
