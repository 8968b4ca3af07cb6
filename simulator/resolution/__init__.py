"""Parts of resolving a scenario: from what a user asks for to what runs, one subject a module.

``simulator.resolve`` puts together one kind of replica; ``pools`` calls it for each kind.
"""
