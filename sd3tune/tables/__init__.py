"""What sd3tune knows of each optimizer, quantisation scheme, loss, storage, dataset type and
architecture: one row for each, with everything that is known about it.

The rooms below read the rows: configuration takes the names and options, the axes of choice take
the needs, the plan takes the bytes, the trainer takes what builds or applies the thing, and the
docs take the sentence. A row says where code is by name ("module:attribute"), so that no row
imports torch.
"""
