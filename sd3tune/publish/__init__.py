"""The model card of a run, and uploading its files to a hub of Hugging Face. Reads the plan and
output_dir; loads no weights, so that `sd3tune publish` answers without torch.
"""
