"""The prompts of `validation_prompt_library`: a few of everything that a fine-tuning may spoil, so
that a concept that leaks into other pictures is seen."""

BUILT_IN_PROMPTS = {
    "builtin_portrait": "a portrait photo of an elderly fisherman with a grey beard, soft window "
    "light",
    "builtin_group": "four friends laughing at a table outside a small restaurant in the evening",
    "builtin_hands": "two hands kneading bread dough on a floured wooden board, seen from above",
    "builtin_dog": "a wet dog shaking itself on a beach, water drops frozen in the air",
    "builtin_bird": "a kingfisher on a branch above a stream, sharp feathers, blurred background",
    "builtin_landscape": "a valley with a winding river between snowy mountains at sunrise",
    "builtin_city": "a narrow street of an old town after rain, lanterns reflected in the stones",
    "builtin_room": "a bright kitchen with open shelves, plants on the window sill, a blue chair",
    "builtin_food": "a bowl of noodle soup with an egg, spring onions and steam, from the side",
    "builtin_machine": "the inside of a mechanical watch, brass wheels and red stones, macro photo",
    "builtin_night": "a lighthouse under the Milky Way, its beam above a calm sea",
    "builtin_drawing": "a pencil drawing of a bicycle leaning against a tree",
    "builtin_painting": "an oil painting of sailing boats in a storm with thick brush strokes",
    "builtin_count": "three red apples and two green pears in a row on a white table",
    "builtin_lettering": 'a wooden sign at a garden gate with the words "Please knock"',
}
