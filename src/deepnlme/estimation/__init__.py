"""Estimation methods, and what a fit returns."""
