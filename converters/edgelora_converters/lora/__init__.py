"""An adapter as a value: pairs of factors per module, with DoRA, token rows, combination, reduction and fit."""
