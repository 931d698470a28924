"""An agent for the LangGraph server: it waits, then answers, or fails. No model is asked.

Runs in the environment of requirements-langgraph.txt, not in ours.
"""

# mypy: ignore-errors
from __future__ import annotations

import asyncio
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """`seconds` to wait, then `answer` is the `question` in capitals; with `fail` it raises that instead."""

    question: str
    seconds: float
    fail: str
    answer: str


async def think(state: State) -> State:
    await asyncio.sleep(state.get("seconds", 0.0))
    if state.get("fail"):
        raise ValueError(state["fail"])
    return {"answer": state["question"].upper()}


_builder = StateGraph(State)
_builder.add_node("think", think)
_builder.add_edge(START, "think")
_builder.add_edge("think", END)
graph = _builder.compile()
