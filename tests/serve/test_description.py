"""What the OpenAPI description says is what the server does, as schemathesis tries it."""

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.generate.tiny import random_model, tokenizer

from bedplate.generate.chat import ChatTemplate
from bedplate.language_model import LanguageModel
from bedplate.serve.app import Served, Service
from bedplate.serve.texts import Limits
from bedplate.serve.worker import Worker

worker = Worker(LanguageModel(random_model(), tokenizer()), slots=4, queue_length=100)
service = Service({"tiny": Served(worker, ChatTemplate(None))}, limits=Limits(max_tokens=8))
schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)


@schema.parametrize()
@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_every_answer_is_described(case: schemathesis.Case) -> None:
    name = case.body.get("model") if isinstance(case.body, dict) else None
    if isinstance(name, str) and len(name) <= 200:  # names that nobody serves would all end at the same place
        case.body["model"] = "tiny"
    # A body of the right form may still not fit the model: its ids, its length, echo beside logprobs.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])
