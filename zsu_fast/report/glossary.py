"""The words of the report, for readers who know nothing of networks."""

WORDS = {
    "probes": "Images of what is to be forgotten, best ones that the model was not trained on: they choose the edit.",
    "retain images": "Images of what is to be kept; while the edit is chosen they show what it costs.",
    "evaluation images": "Labelled images that judge the edit. They should have no part in choosing it.",
    "accuracy": "The share of images to which the model gives the right answer.",
    "at most .. %, with 95 % confidence": "What was measured on a sample says what to expect of all such images only "
    "within limits. In 95 of 100 such samples the true share lies below a limit that is computed so.",
    "95 % interval": "The same with a lower and an upper limit.",
    "features": "The numbers in which a network describes an image to itself, and from which its last step makes the "
    "answer. A class can be gone from the answers and still be told by the features.",
    "linear probe": "A simple test of the features: can a formula that is fitted anew to them still find the class?",
    "retrained model (oracle)": "A model that was trained from the start without what is to be forgotten: the ideal.",
    "relearning": "Training the edited model again on a few images, to see how soon what was forgotten is back.",
    "membership inference": "Telling from a model's behaviour whether an image was among those that it was trained on.",
    "neuron": "One unit of a layer of the network. Masked: set so that it says nothing, whatever the image.",
    "relevance": "How much a unit or a pixel contributed to an answer, by layer-wise relevance propagation (LRP).",
    "logit": "The score that the network gives a class. The class with the highest is the answer.",
    "margin": "How far an image is from its goal, as a difference of scores. Below 0 it has reached it.",
    "concept": "Something that images have in common, whatever their class, and that the features can tell.",
    "vector fitted anew": "A formula that tells images with the concept from others, fitted to the features as they "
    "are after the edit. Right for half of the images: chance.",
    "latents": "The random numbers from which a generator makes an image. Fresh: drawn anew, only to judge.",
    "judge": "A classifier that says what the images show that a generator makes.",
    "sensitive words": "The words of a record that an answer must not have.",
    "paraphrases": "The same questions in other words. No training saw them; they judge.",
    "perplexity": "How surprised a language model is by a text; the lower, the better it expects it.",
    "SHA-256": "A fingerprint of data: the same data have the same one, and other data with it are not known to be "
    "found by anyone. Of a model it is over the names, shapes and values of all its tensors.",
    "keyed hash (HMAC)": "A fingerprint that only who has the key can compute: without it nobody can find out by trial "
    "whether an image was used. The key is in the undo file.",
    "undo file": "The values that the edit replaced. It makes the model what it was, bit for bit; who has it has back "
    "what was forgotten.",
}
"""Term -> what it means."""

ALWAYS = ("SHA-256", "keyed hash (HMAC)", "undo file")
CLASSIFIER = (
    "probes", "retain images", "evaluation images", "accuracy", "at most .. %, with 95 % confidence", "95 % interval",
    "features", "linear probe", "retrained model (oracle)", "relearning", "membership inference", "neuron", "relevance",
    "logit",
)  # fmt: skip


def explained(terms: tuple[str, ...]) -> list[tuple[str, str]]:
    """These terms and those of every page, in the order of `WORDS`."""
    return [(term, meaning) for term, meaning in WORDS.items() if term in (*terms, *ALWAYS)]
