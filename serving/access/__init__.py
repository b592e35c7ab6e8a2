"""Who may come in: API keys, tokens, rates and quotas; certificates of the two ports."""
