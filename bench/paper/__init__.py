"""The experiments of LRA-NPP's paper (arXiv 2410.23693) as configs of ``zsu-fast benchmark``, and its ablations."""
