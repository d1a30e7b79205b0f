"""Every way in which the protocol was broken on purpose, and the scenes that must notice."""

from __future__ import annotations

from dataclasses import dataclass

from tests.crash.model.explore import NO_BOUND, Outcome, exhaust
from tests.crash.model.machine import ARM, PSO, X86
from tests.crash.model.scenes import SCENES


@dataclass(frozen=True)
class Mutant:
    """A flag of the actors; `kind` of the machine that can show the harm."""

    name: str
    what: str
    scenes: tuple[str, ...]
    kind: str = X86
    bounds: tuple[int, ...] = (1, 2, NO_BOUND)  # on preemptions, tried in this order


MUTANTS = (
    # fences
    Mutant("no_fence_publish", "no fence between tail and the look for sleepers", ("ring on",)),
    Mutant("no_fence_sleep", "no fence between the sleeping byte and the look for work", ("ring on",)),
    Mutant(
        "no_fence_after_nap",
        "no fence between the cleared byte and the look that decides who is rung on",
        ("first look",),
    ),
    Mutant("no_fence_claim", "no fence between LEASED and the read of `cancel`", ("cancel",)),
    Mutant("no_fence_cancel", "no fence between `cancel` and the read of the word", ("cancel",)),
    Mutant("no_fence_wait", "no fence between `waiting` and the look at the word", ("handshake",)),
    Mutant("no_fence_notify", "no fence between DONE and the look at `waiting`", ("handshake",)),
    Mutant("no_fence_push", "recovery pushes without a fence", ("due",)),
    Mutant("no_fence_bury", "recovery rings without a fence after it cleared the dead one's byte", ("death",)),
    Mutant("no_sync_slot", "word may be seen before payload and cell", ("handshake", "takeover"), kind=PSO),
    Mutant("no_sync_lane", "tail may be seen before the word", ("handshake",), kind=PSO),
    Mutant("no_sync_result", "DONE may be seen before the result", ("handshake",), kind=PSO),
    Mutant("no_sync_pin", "FREE may be seen before the pin", ("blocks",), kind=PSO),
    Mutant("no_sync_claim", "a claimer may read words from before the tail it saw", ("handshake",), kind=ARM),
    Mutant("no_sync_collect", "a producer may read a result from before the DONE it saw", ("handshake",), kind=ARM),
    Mutant("no_sync_due", "recovery may read words from before the count it saw", ("due",), kind=ARM),
    Mutant("no_sync_allocate", "an allocator may read a pin from before the generation it saw", ("blocks",), kind=ARM),
    # sleeping and waking
    Mutant("no_wake", "publish wakes nobody", ("ring on",)),
    Mutant("no_look_after_sleeping", "sleeps without another look", ("ring on",)),
    Mutant("look_before_sleeping", "looks, then says it sleeps", ("ring on",)),
    Mutant("look_before_waiting", "producer looks, then says it waits", ("handshake",)),
    Mutant("no_ring_on", "a claimer leaves work and wakes nobody", ("ring on",)),
    Mutant("no_rescan", "sleeps on after a time-out without a look", ("abandoned",)),
    Mutant("clear_after_look", "clears surplus tokens after the look that should have seen their cause", ("ring on",)),
    Mutant("clear_inside_nap", "clears tokens after the nap's number is out", ("naps",), bounds=(NO_BOUND,)),
    Mutant("naps_start_anew", "a replaced worker counts naps from 0", ("replaced naps",)),
    Mutant("nap_not_renewed", "sleeps again in the same nap", ("naps",)),
    Mutant("look_before_entry_0", "the supervisor looks, then raises entry 0", ("scale to zero",)),
    Mutant("stale_bell_handle", "rings the doorbell of a worker that was replaced", ("replaced",)),
    Mutant("leave_without_look", "a leaving worker takes a token along", ("leave",)),
    Mutant("dead_keeps_sleeping_byte", "nobody clears a dead worker's sleeping byte", ("death",)),
    Mutant("no_ring_after_death", "recovery wakes nobody", ("death",)),
    Mutant("ring_before_clear", "recovery rings, then clears the dead one's sleeping byte", ("death",)),
    Mutant("notify_before_done", "the producer is rung before the word says DONE", ("handshake",)),
    Mutant("rings_early_only", "the producer is rung before the job is claimed, and not after it", ("early",)),
    Mutant("wait_not_renewed", "a producer looks again in the same wait", ("early",)),
    Mutant("no_notify_of_room", "nobody tells a producer of the room that stale entries left", ("stale entry",)),
    # promises to look again
    Mutant("promise_not_kept", "sleeps before the moment at which it promised to look", ("attended",)),
    Mutant("promise_without_clock", "a producer believes any promise, whatever the time", ("attended",)),
    Mutant("clock_read_before_tail", "a producer reads the clock, then makes its entry visible", ("attended",)),
    Mutant("promises_sooner", "promises an earlier moment while a later one is believed", ("attended, again",)),
    Mutant("claim_forgets_promise", "a claim that promises nothing forgets what was promised", ("attended, then not",)),
    Mutant("timer_does_not_ring", "a long job keeps the one that promised, nobody is rung", ("attended, slow",)),
    Mutant("timer_before_promised", "the timer rings while the promise still holds", ("attended, slow",)),
    Mutant("leave_despite_promise", "leaves before the moment at which it promised to look", ("attended, leaves",)),
    Mutant("leave_looks_before_promised", "looks, waits for the promised moment, leaves", ("attended, leaves",)),
    # lanes
    Mutant("no_full_check", "a full lane is overwritten", ("stale entry",)),
    Mutant("no_full_check_push", "a full recovery lane is overwritten", ("full recovery lane",)),
    Mutant("no_lock", "claims without the group's byte", ("ring on",)),
    Mutant("tail_before_cell", "tail, then cell", ("handshake",)),
    Mutant("tail_before_queued", "tail, then word", ("handshake",)),
    Mutant("queued_before_payload", "word, then payload", ("takeover",)),
    Mutant("queued_before_cell", "word, then cell", ("takeover",)),
    Mutant("head_before_leased", "head, then LEASED", ("death",)),
    Mutant("head_after_unlock", "head moved after the byte is free", ("ring on",)),
    Mutant("no_half_done_push", "takeover leaves a half-done publish", ("takeover",)),
    # the word
    Mutant("split_word", "state and generation in two words", ("handshake", "cancel")),
    Mutant("same_generation", "a freed slot keeps its generation", ("cancel",)),
    Mutant("any_group", "claims a word of another group", ("foreign entry",)),
    Mutant("claims_leased", "claims what another has leased", ("doubled entry",)),
    Mutant("claims_running", "claims what another runs", ("doubled entry",)),
    Mutant("done_before_result", "word, then result", ("handshake",)),
    Mutant("no_cancel_check", "the claimer does not read `cancel`", ("cancel",)),
    Mutant("cancel_read_before_fence", "`cancel` is read before LEASED is visible", ("cancel",)),
    Mutant("cancelled_in_silence", "nobody tells the producer that a claim ended a cancelled job", ("cancel",)),
    Mutant("late_cancel", "cancels without a look whether the slot still has that job", ("late cancel",)),
    Mutant("half_done_forgotten", "goes on after a submit that broke off between word and tail", ("broken off",)),
    Mutant("keeps_its_lease", "a slow job keeps the rest of its lease", ("give back",)),
    # death
    Mutant("leased_forgotten", "recovery redelivers only what was RUNNING", ("death",)),
    Mutant("push_before_requeued", "pushed, then REQUEUED", ("death",)),
    Mutant("death_forgets_scheduled", "after a death nobody looks for SCHEDULED words", ("failed, then dead",)),
    Mutant("no_first_push", "a fresh recovery does not push what is REQUEUED", ("retry",)),
    Mutant("crash_counted_at_death", "the crash is counted a second time at death", ("death",)),
    Mutant("failure_costs_a_crash", "a failure keeps the crash that was paid in advance", ("retry",)),
    Mutant("count_before_scheduled", "the count goes up before the word says SCHEDULED", ("retry",)),
    Mutant("ring_before_scheduled", "recovery is rung before the count", ("retry",)),
    Mutant("scan_before_count", "recovery scans, then reads the counts it compares with", ("retry",)),
    Mutant("row_freed_first", "the row is free before its leases are found", ("replaced",)),
    Mutant("row_reused_early", "a dead row is used before recovery has freed it", ("replaced",)),
    Mutant("redeliver_without_proof", "a silent worker is called dead", ("silent",)),
    Mutant("takeover_does_not_ring", "takeover rings for nobody's entries", ("inherited",)),
    Mutant("takeover_forgets_scheduled", "takeover does not tell recovery of delayed jobs", ("delayed",)),
    Mutant("epoch_before_byte", "a starting worker reads the epoch, then takes its byte", ("restart",)),
    Mutant("no_recovery_lock", "recovery does not take its byte", ("two recoveries",)),
    Mutant("takeover_without_proof", "a free byte is taken for death", ("closed lock file",)),
    Mutant("kill_without_second_look", "stops and kills without looking again", ("kill",)),
    # blocks
    Mutant("free_before_pin", "the slot is freed, then the view is pinned", ("blocks",)),
    Mutant("pin_read_first", "the allocator reads the pin, then the generation", ("blocks",)),
    Mutant("pin_overwrites_pin", "a second reader takes over the pin of the first", ("two views",)),
)


def hunt(mutant: Mutant, *, most_states: int = 200_000) -> tuple[str, Outcome]:
    """The first scene that notices, and what it saw; or the last that did not."""
    scene, outcome = "", Outcome()
    for bound in mutant.bounds:
        for scene in mutant.scenes:
            story = SCENES[scene]
            machine = story.machine(mutant.name, kind=mutant.kind)
            outcome = exhaust(machine, story.deaths, most_states=most_states, preemptions=bound)
            if outcome.violation:
                return scene, outcome
    return scene, outcome
