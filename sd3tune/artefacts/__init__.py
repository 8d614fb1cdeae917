"""Files that training leaves or starts from: `sd3tune inspect` says what one is, `sd3tune export`
writes it in another program's dialect.
"""
