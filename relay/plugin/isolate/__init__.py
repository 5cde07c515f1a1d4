"""A plugin in a process of its own: the same class, the same API, and nothing it does can touch the relay's process.

    [plugins.heavy]
    rooms = "heavy:*"
    isolate = "process"

`standin` is what the relay has in the plugin's place, `child` what runs in the other process, `wire` what they say.
"""
