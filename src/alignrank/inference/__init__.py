"""Trained weights at work on images, folders and videos."""
