"""Stand-ins for the outside: a worker without a model, a clock that tests move, a recorder of steps.

*Ring*: tests. Constructor arguments -> an object that behaves like the real one.
*Knows nothing about*: the internals of what it stands in for.
"""
