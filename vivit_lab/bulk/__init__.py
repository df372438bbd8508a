"""Explanations of whole datasets: resumable runs on one machine or many, and what comes of them."""
