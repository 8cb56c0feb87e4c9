"""gRPC of the Open Inference Protocol, as the load generators call it."""

from typing import Any

import grpc
from tritonclient.grpc import service_pb2


def infer_request(model: str) -> Any:
    """Return an empty ModelInferRequest for a model."""
    return service_pb2.ModelInferRequest(model_name=model)


def model_infer(address: str) -> Any:
    """Return the callable of ModelInfer at HOST:PORT, on a connection that it shares with no other."""
    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        service_pb2.ModelInferRequest.SerializeToString,
        service_pb2.ModelInferResponse.FromString,
    )
