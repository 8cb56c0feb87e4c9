"""What the stages of an explanation allow, worked out by hand."""

from loadtests.explain_stages import stage_lines


def test_the_ratio_follows_from_the_medians_of_the_stages() -> None:
    predictions = {"decode, transform": [2.0, 1.0, 90.0], "graph": [40.0, 38.0, 41.0]}
    explanations = {"decode, transform": [2.0, 2.0], "graph": [60.0, 60.0], "PNG": [8.0, 10.0], "JSON": [1.0, 1.0]}
    assert stage_lines(predictions, explanations) == [
        "processor time of one prediction: 42.0 ms (decode, transform 2.0, graph 40.0)",
        "processor time of one explanation: 72.0 ms (decode, transform 2.0, graph 60.0, PNG 9.0, JSON 1.0)",
        "explanations / predictions that the graphs alone allow: 0.67; with all stages: 0.58",
    ]
