"""Liveness, readiness and the watchdog, over every state."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.state import GatewayState
from gateway.observe.health import (
    HEARTBEAT_MAX_AGE_S,
    PROBE_EVERY_S,
    PROOF_MAX_AGE_S,
    Vitals,
    WatchdogVerdict,
    healthz,
    probe_due,
    readyz,
    watchdog,
)

DECLARED = (GatewayState.LOCKED, GatewayState.FULL, GatewayState.READ_ONLY)


@pytest.mark.parametrize("state", GatewayState)
def test_healthz_is_200_in_every_state_and_says_which(state: GatewayState) -> None:
    answer = healthz(state)
    assert answer.status == 200
    assert json.loads(answer.body) == {"state": state.value}


@pytest.mark.parametrize("state", GatewayState)
def test_ready_means_that_messages_are_taken(state: GatewayState) -> None:
    answer = readyz(state)
    assert answer.status == (200 if state is GatewayState.RUNNING else 503)
    assert json.loads(answer.body) == {"state": state.value}


def vitals(state: GatewayState, heartbeat_age_s: float = 0, proof_age_s: float = 0) -> Vitals:
    return Vitals(state, 1000.0, 1000.0 - heartbeat_age_s, 1000.0 - proof_age_s)


@pytest.mark.parametrize("state", DECLARED)
def test_a_declared_state_is_fed_for_ever_because_a_restart_would_not_help(state: GatewayState) -> None:
    assert watchdog(vitals(state, proof_age_s=1e9)) is WatchdogVerdict.FEED


@pytest.mark.parametrize("state", GatewayState)
def test_a_loop_that_stands_is_never_fed(state: GatewayState) -> None:
    assert watchdog(vitals(state, heartbeat_age_s=HEARTBEAT_MAX_AGE_S + 0.1)) is WatchdogVerdict.LOOP_STANDS


def test_a_running_gateway_must_prove_that_its_writer_works() -> None:
    assert watchdog(vitals(GatewayState.RUNNING, proof_age_s=PROOF_MAX_AGE_S)) is WatchdogVerdict.FEED
    assert watchdog(vitals(GatewayState.RUNNING, proof_age_s=PROOF_MAX_AGE_S + 0.1)) is WatchdogVerdict.WRITER_STANDS


def test_an_idle_gateway_owes_a_probe_every_30_seconds_and_only_while_running() -> None:
    assert not probe_due(vitals(GatewayState.RUNNING, proof_age_s=PROBE_EVERY_S - 0.1))
    assert probe_due(vitals(GatewayState.RUNNING, proof_age_s=PROBE_EVERY_S))
    assert not any(probe_due(vitals(state, proof_age_s=1e9)) for state in DECLARED)


@given(state=st.sampled_from(GatewayState), heartbeat_age_s=st.floats(0, 1e6), proof_age_s=st.floats(0, 1e6))
def test_it_is_withheld_only_for_a_reason_that_a_restart_can_mend(state: GatewayState, heartbeat_age_s: float, proof_age_s: float) -> None:
    match watchdog(vitals(state, heartbeat_age_s, proof_age_s)):
        case WatchdogVerdict.FEED:
            assert heartbeat_age_s <= HEARTBEAT_MAX_AGE_S + 1e-6
        case WatchdogVerdict.LOOP_STANDS:
            assert heartbeat_age_s > HEARTBEAT_MAX_AGE_S - 1e-6
        case WatchdogVerdict.WRITER_STANDS:
            assert state is GatewayState.RUNNING
            assert proof_age_s > PROOF_MAX_AGE_S - 1e-6


def test_a_probe_is_due_long_before_the_watchdog_loses_patience() -> None:
    assert PROBE_EVERY_S + 10 < PROOF_MAX_AGE_S
