"""A model of the protocol, small enough to try every schedule of it.

automaton   actors are generators, run as automata so that a search can go back
ops         what an actor can want: one step of memory or kernel
machine     simulated memory: store buffers, record locks, doorbells, death
world       the cells of the segment for one small shape
actors/     producer, worker, recovery, supervisor, blocks: the protocol, step by step
monitor     what must hold at every store, and when nobody can go on
explore     every schedule of a scene, or random walks
scenes      the small worlds, and one large for the walks
mutants     each way in which the protocol was broken on purpose
"""
