"""ForagerAgent, prompt profiles, chat rendering, action parsing and the torch-free policies."""

if __name__ != "swegym.agents":
    raise ImportError("import swegym.agents: 'agents' is only the folder's name")
