"""THUMOS14: when does which action happen; sliding windows, detections, mAP by the rules of the official kit."""
