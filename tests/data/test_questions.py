from lightning_sdft.data.questions import first_of_each, hold_out_questions, question
from lightning_sdft.records import Example


def test_a_question_is_all_turns_but_the_system_turn_whatever_their_spacing():
    def asks(*turns):
        return question(Example("a", [{"role": role, "content": content} for role, content in turns]))

    earlier, last = ("user", "Which river?"), ("user", "How  long\n is it? ")
    assert asks(last) == asks(("system", "Be brief."), last) == "How long is it?"
    assert asks(earlier, ("assistant", "The Nile."), last) != asks(earlier, ("assistant", "The Rhine."), last)


def test_repeated_questions_fall_to_one_part():
    examples = [Example(str(index), [{"role": "user", "content": "ab"[index % 2]}]) for index in range(10)]
    rest, part = hold_out_questions(examples, [0.5], seed=0)
    assert sorted(map(len, (rest, part))) == [5, 5]
    assert len(set(map(question, rest))) == len(set(map(question, part))) == 1
    assert [example.id for example in first_of_each(examples)] == ["0", "1"]
