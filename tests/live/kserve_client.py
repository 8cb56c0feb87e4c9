"""Calls a server with KServe's own client, over REST and gRPC, and prints the answers as JSON.

It runs in an environment of its own:

`python kserve_client.py http://127.0.0.1:3000 127.0.0.1:3001 picture.png`
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "kidney-stone"


async def main(url: str, grpc_url: str, picture: bytes) -> dict[str, object]:
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    text = InferInput("image", [1], "BYTES", parameters={"content_type": "base64"})
    text.data = [base64.b64encode(picture).decode()]
    request = InferRequest(model_name=MODEL, infer_inputs=[text], request_id="rest-1")
    answer = await rest.infer(url, request, model_name=MODEL)
    rows = InferInput("rows", [1, 6], "FP32")
    rows.data = [[42.0, 52_000.0, 420.0, 9.0, 63.5, 95.0]]
    churn = await rest.infer(url, InferRequest(model_name="churn", infer_inputs=[rows]), model_name="churn")

    v1 = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60))
    instances = {"instances": [{"b64": base64.b64encode(picture).decode()}]}

    remote = InferenceGRPCClient(url=grpc_url)
    encoded = InferInput("image", [1], "BYTES")
    encoded._raw_data = len(picture).to_bytes(4, "little") + picture
    grpc_answer = await remote.infer(InferRequest(model_name=MODEL, infer_inputs=[encoded], request_id="grpc-1"))
    answers = {
        "ready": [
            await rest.is_server_ready(url),
            await rest.is_server_live(url),
            await rest.is_model_ready(url, MODEL),
            await remote.is_server_ready(),
            await remote.is_server_live(),
            await remote.is_model_ready(MODEL),
        ],
        "ids": [answer.id, grpc_answer.id],
        "rest": answer.outputs[0].as_numpy().tolist(),
        "grpc": grpc_answer.outputs[0].as_numpy().tolist(),
        "churn": churn.outputs[0].as_numpy().tolist(),
        "v1": (await v1.infer(url, instances, model_name=MODEL))["predictions"],
        "v1 ready": await v1.is_model_ready(url, MODEL),
    }
    await v1.close()
    await rest.close()
    await remote.close()
    return answers


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))))
