"""Servers of other makers, each as its documentation says to serve scikit-learn models, in processes of their own."""
