"""A Longline plugin that amplifies the slow part of gradients: Grokfast, Lee et al. 2024, arXiv 2405.20233."""
