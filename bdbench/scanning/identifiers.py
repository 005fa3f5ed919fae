"""Under what security teams file a poisoned training set. The names are those of the lists themselves."""

from __future__ import annotations

IDENTIFIERS: tuple[dict[str, str], ...] = (
    {"scheme": "MITRE ATLAS", "id": "AML.T0020", "name": "Poison Training Data", "what": "the attack looked for"},
    {"scheme": "MITRE ATLAS", "id": "AML.M0007", "name": "Sanitize Training Data", "what": "this scan"},
    {
        "scheme": "NIST AI 100-2 E2025",
        "id": "NISTAML.023",
        "name": "Backdoor Poisoning",
        "what": "the attack looked for",
    },
    {
        "scheme": "NIST AI 100-2 E2025",
        "id": "NISTAML.021",
        "name": "Clean-label Backdoor",
        "what": "the same without changed labels, which is harder to find",
    },
    {
        "scheme": "OWASP Machine Learning Security Top Ten 2023",
        "id": "ML02:2023",
        "name": "Data Poisoning Attack",
        "what": "the attack looked for",
    },
    {
        "scheme": "OWASP Machine Learning Security Top Ten 2023",
        "id": "ML10:2023",
        "name": "Model Poisoning",
        "what": "what a model may suffer that is trained on such a set",
    },
)
