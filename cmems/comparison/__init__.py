"""Comparing methods: suites of rows, their runs, and one report beside the paper's figures."""
