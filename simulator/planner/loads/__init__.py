"""How far a deployment goes: the load curve, its knee, the highest load that holds."""
