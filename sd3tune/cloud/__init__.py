"""Specifications of a run for programs that start runs on other machines: SkyPilot, dstack,
Kubernetes, Kueue, Kubeflow Trainer and Ray, one file each.

A specification is data. It comes from the plan of a configuration for a card of the catalogue;
nothing here talks to a program or a cloud, and no secret is ever written.
"""
