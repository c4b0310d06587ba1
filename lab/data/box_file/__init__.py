"""A file of boxes about one's own pictures: its formats, a file each, and the frame its numbers count in (`lab.data.sets.boxes`).

The readers are small and their own: `supervision` takes ids of categories for places, reads polygons of YOLO as boxes and has no word
for a picture that nobody has labelled, and carries neither Label Studio nor CVAT.
"""
