"""Requests and answers without HTTP: fields are checked, refusals answered."""

import pytest

from leveret.broker.core.resources import (
    Fields,
    Pending,
    Refused,
    Request,
    Response,
    answering,
    forbidden,
)

KNOWN = ("name", "count", "table")


def refusal(read):
    with pytest.raises(Refused) as caught:
        read()
    return caught.value.response


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"count": "x"}, "field 'count' is \"x\", it must be an integer from 1 to 9"),
        ({"count": 0}, "field 'count' is 0, it must be an integer from 1 to 9"),
        ({"count": "10"}, "field 'count' is \"10\", it must be an integer from 1 to 9"),
        ({"count": True}, "field 'count' is true, it must be an integer from 1 to 9"),
        ({"count": 1.5}, "field 'count' is 1.5, it must be an integer from 1 to 9"),
        ({"count": "-1"}, "field 'count' is \"-1\", it must be an integer from 1 to 9"),
    ],
)
def test_a_number_out_of_range_is_refused_with_name_value_and_range(given, reason):
    response = refusal(lambda: Fields(given, KNOWN).integer("count", 1, 9))

    assert (400, reason) == (response.status, response.body["reason"])
    assert ("count", given["count"], "an integer from 1 to 9") == (
        response.body["field"],
        response.body["value"],
        response.body["allowed"],
    )


@pytest.mark.parametrize(
    ("read", "value", "allowed"),
    [
        (lambda fields: fields.number("count", 0, 9), 0, "a number above 0 and up to 9"),
        (lambda fields: fields.number("count", 0, 9), 9.5, "a number above 0 and up to 9"),
        (lambda fields: fields.number("count", 0, 9), True, "a number above 0 and up to 9"),
        (lambda fields: fields.number("count", 0, 9), float("nan"), "a number above 0 and up to 9"),
        (lambda fields: fields.number("count", 0, 9), "1", "a number above 0 and up to 9"),
        (lambda fields: fields.boolean("count"), 1, "true or false"),
        (lambda fields: fields.boolean("count"), "true", "true or false"),
        (lambda fields: fields.integers("count", 2), 1, "a list of at most 2 integers from 0 on"),
        (lambda fields: fields.integers("count", 2), [1, 2, 3], "a list of at most 2 integers"),
        (lambda fields: fields.integers("count", 2), [True], "a list of at most 2 integers"),
        (lambda fields: fields.integers("count", 2), [-1], "a list of at most 2 integers"),
        (
            lambda fields: fields.integers("count", 2, 9),
            [10],
            "a list of at most 2 integers from 0",
        ),
        (lambda fields: fields.integers("count", 2), "[1", "a list of at most 2 integers from 0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_it_may_be(read, value, allowed):
    response = refusal(lambda: read(Fields({"count": value}, KNOWN)))

    assert (400, "count") == (response.status, response.body["field"])
    assert response.body["allowed"].startswith(allowed)


def test_numbers_and_lists_of_an_object_are_returned():
    fields = Fields({"name": False, "count": 0.5, "table": [3, 1, 3]}, KNOWN)

    assert (False, 0.5, [1, 3]) == (
        fields.boolean("name"),
        fields.number("count", 0, 9),
        fields.integers("table", 3),
    )
    nothing = Fields({}, KNOWN)
    assert [None] * 3 == [
        nothing.boolean("name"),
        nothing.number("count", 0, 9),
        nothing.integers("table", 3),
    ]


def test_a_list_of_a_query_is_returned():
    assert [1, 9] == Fields({"count": "[9, 1]"}, KNOWN).integers("count", 2, 9)


def test_a_number_of_very_many_digits_is_refused():
    response = refusal(lambda: Fields({"count": "1" * 10_000}, KNOWN).integer("count", 1, 9))

    assert 400 == response.status


@pytest.mark.parametrize("given", [{"name": 1}, {"name": ["a"]}])
def test_what_is_no_text_is_refused(given):
    assert "it must be a text" in refusal(lambda: Fields(given, KNOWN).text("name")).body["reason"]


def test_what_has_to_be_there_and_is_not_is_refused():
    response = refusal(lambda: Fields({}, KNOWN).required("name"))

    assert "field 'name' is absent, it must be a text" == response.body["reason"]


def test_a_table_has_no_more_levels_than_anybody_needs():
    deep, deeper = "[" * 31 + "]" * 31, "[" * 32 + "]" * 32

    assert Fields({"table": f'{{"a": {deep}}}'}, KNOWN).table("table")
    assert (
        400 == refusal(lambda: Fields({"table": f'{{"a": {deeper}}}'}, KNOWN).table("table")).status
    )


@pytest.mark.parametrize("given", ["[1]", "{", "[" * 100_000, 5, ["a"]])
def test_what_is_no_table_is_refused(given):
    response = refusal(lambda: Fields({"table": given}, KNOWN).table("table"))

    assert (400, "table") == (response.status, response.body["field"])


def test_a_field_that_nobody_knows_is_refused_and_the_others_named():
    response = refusal(lambda: Fields({"nam": "x"}, KNOWN))

    assert (
        "field 'nam' is \"x\", it must be absent; known: name, count, table"
        == (response.body["reason"])
    )


@pytest.mark.parametrize("body", [[], "x", 5])
def test_a_body_that_is_no_object_is_refused(body):
    assert "it must be a JSON object" in refusal(lambda: Fields(body, KNOWN)).body["reason"]


def test_good_values_are_returned_of_queries_and_of_objects():
    query = Fields({"name": "", "count": "9", "table": '{"a": 1}'}, KNOWN)
    table = Fields({"name": "n", "count": 1, "table": {"a": 1}}, KNOWN)

    assert ("", 9, {"a": 1}) == (
        query.required("name"),
        query.integer("count", 1, 9),
        query.table("table"),
    )
    assert ("n", 1, {"a": 1}) == (
        table.text("name"),
        table.integer("count", 1, 9),
        table.table("table"),
    )


def test_what_is_not_there_is_none():
    fields = Fields({}, KNOWN)

    assert [None] * 3 == [fields.text("name"), fields.integer("count", 1, 9), fields.table("table")]


def test_a_refusal_is_the_answer_of_its_handler():
    @answering
    def handler(request, broker):
        raise forbidden("not you")

    answer = handler(Request("GET", "/"), None)

    assert Response(403, {"error": "forbidden", "reason": "not you"}) == answer


def test_who_waits_for_an_answer_is_told_whether_it_comes_before_or_after():
    response, told = Response(200, None), []
    early, late = Pending(), Pending()

    early.resolve(response)
    early.then(told.append)
    late.then(told.append)
    assert [response] == told
    late.resolve(response)

    assert [response] * 2 == told
