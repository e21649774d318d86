"""The words of the generated world: what may be said of a person, a project or a company, and how it is asked for.

Statements and questions of a relation were written apart. A direct question uses words of the statements; a rephrased
one shares no word with any of them but the name it asks about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Relation:
    """One thing that can be said of a subject: `{name}` stands for the subject, `{value}` for what is said.

    `near` is said of the subject too, in similar words, and does not answer the questions. `values` may be empty where
    the world makes them. Only what is `changing`, of which one value is true at a time, is ever said
    anew.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    direct: tuple[str, ...]
    rephrased: tuple[str, ...]
    near: tuple[str, ...] = ()
    changing: bool = False


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happens to a person more than once: `{when}` is a day in statements, a month in questions."""

    name: str
    values: tuple[str, ...]
    dated: tuple[str, ...]
    undated: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """A question that takes two facts: what `first` says of the person, and what `second` says of that."""

    first: str
    second: str
    questions: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


FIRST_NAMES: Final = _words(
    "Ada Alma Amir Anouk Arjun Astrid Ayse Bruno Carmen Cedric Chiara Dalia Daniel Dmitri Edith Elif Emil Esther Farid "
    "Fatima Felix Fiona Gideon Greta Hana Hector Hugo Ibrahim Ines Ingrid Isaac Ivan Jasmin Jonas Julia Kaito Karim "
    "Kofi Lara Lena Liam Lucia Magnus Malik Marta Mei Milan Mina Nadia Niko Nils Noor Olga Omar Oscar Paula Pedro "
    "Petra Priya Quentin Rafael Rosa Ruben Samir Sanna Selma Silas Sofia Stefan Tara Theo Tomas Uma Vera Viktor Wanda "
    "Xenia Yara Yusuf Zoe"
)
LAST_STARTS: Final = _words(
    "Ash Berg Black Brook Carl Dal Ek Fair Fal Grim Hall Haver Hol Iver Kal Kirk Lang Lind Mar Nor Oster Pem Quist Rav "
    "Rosen Sand Sil Stein Stor Thorn Ul Van Wester Win Yar Zell"
)
LAST_ENDS: Final = _words(
    "berg born brook by croft dahl dorf feld ford gard grove ham holm hurst land ley lund man mark moor ness quist "
    "ridge rup sen shaw stad strom ton vik ward well wick wood worth"
)
PLACES: Final = _words(
    "Lisbon Tartu Ghent Porto Oslo Kyoto Lima Accra Turin Cork Graz Bergen Utrecht Split Valencia Nairobi Osaka Quito "
    "Riga Salzburg Tampere Uppsala Vilnius Warsaw Zagreb Antwerp Basel Cardiff Dresden Edinburgh Florence Geneva "
    "Hamburg Innsbruck Jaipur Krakow Leipzig Marseille Naples Odense Prague Rotterdam Seville Toulouse Vienna Zurich "
    "Adelaide Boston Calgary Denver Hanoi Montreal Pune Seoul Tunis Wellington"
)
COMPANY_STARTS: Final = _words(
    "Alder Amber Arc Blue Bright Cedar Clear Copper Delta Ember Fern Flint Frost Glen Harbor Hazel Iron Juniper Lumen "
    "Maple North Oak Onyx Pine Quartz River Silver Stone Summit Willow"
)
COMPANY_ENDS: Final = _words("bridge craft field forge gate labs line mill path point port soft stream works yard")
PROJECT_NAMES: Final = _words(
    "Heron Basalt Comet Dune Echo Fjord Glacier Horizon Indigo Jasper Kestrel Lagoon Meridian Nimbus Orchid Puffin "
    "Quasar Raven Sequoia Tundra Umbra Vortex Walrus Zephyr Anchor Beacon Condor Delphi Eclipse Falcon"
)
PET_NAMES: Final = _words("Biscuit Pepper Mango Shadow Waffle Luna Ziggy Truffle Noodle Hazel Otto Pixel Maple Rusty")

MONTHS: Final = _words("January February March April May June July August September October November December")

PERSON: Final = (
    Relation(
        "home",
        PLACES,
        ("{name} lives in {value}.", "{name} has a flat in {value}.", "The home of {name} is in {value}."),
        ("In which city does {name} live?", "Where is the home of {name}?"),
        (
            "What is the current address of {name}?",
            "To which town would I send a parcel for {name}?",
            "Where does {name} reside?",
        ),
        ("{name} spent a rainy weekend in {value}.", "A sister of {name} wants to settle in {value}."),
        changing=True,
    ),
    Relation(
        "employer",
        (),
        ("{name} works for {value}.", "{value} employs {name}.", "{name} has a job at {value}."),
        ("Who does {name} work for?", "At which company does {name} have a job?"),
        (
            "Which firm pays the salary of {name}?",
            "What organisation is printed on the business card of {name}?",
            "Where is {name} on the payroll?",
        ),
        ("{name} turned down an offer from {value}.", "A cousin of {name} was dismissed by {value}."),
        changing=True,
    ),
    Relation(
        "profession",
        _words(
            "nurse carpenter librarian lawyer plumber teacher pilot baker chemist surgeon journalist translator "
            "gardener welder dentist geologist midwife bookkeeper photographer veterinarian"
        ),
        ("{name} works as a {value}.", "By profession {name} is a {value}.", "{name} was trained as a {value}."),
        ("What does {name} work as?", "What is the profession of {name}?"),
        (
            "How does {name} earn a living?",
            "Which occupation did {name} choose?",
            "What line of business is {name} in?",
        ),
        ("As a child {name} dreamt of being a {value}.", "{name} shares an office with a {value}."),
        changing=True,
    ),
    Relation(
        "allergy",
        _words(
            "peanuts shellfish gluten soy eggs sesame celery mustard lupins almonds walnuts strawberries kiwis mangoes "
            "tomatoes lactose"
        ),
        (
            "{name} is allergic to {value}.",
            "{name} has an allergy: {value}.",
            "{name} gets a rash from {value}.",
        ),
        ("What is {name} allergic to?", "Which allergy does {name} have?"),
        (
            "Which food must never be served to {name}?",
            "What should the cook leave out when {name} comes to dinner?",
            "Which ingredient makes {name} ill?",
        ),
        ("{name} brought {value} to the picnic.", "The nephew of {name} is intolerant of {value}."),
    ),
    Relation(
        "pet",
        tuple(
            f"a {kind} called {name}" for kind in ("dog", "cat", "rabbit", "tortoise", "hamster") for name in PET_NAMES
        ),
        ("{name} has {value} as a pet.", "{name} adopted {value}.", "{name} keeps {value} at home."),
        ("Which pet does {name} have?", "What did {name} adopt?"),
        (
            "Which animal shares the household of {name}?",
            "What creature does {name} feed every morning?",
            "Who waits on four paws for {name}?",
        ),
        ("{name} looked after {value} for a neighbour.", "{name} found {value} in the street and rang its owner."),
    ),
    Relation(
        "drink",
        (
            "green tea",
            "black coffee",
            "ginger ale",
            "oat milk cappuccino",
            "tomato juice",
            "hot chocolate",
            "sparkling water",
            "dry cider",
            "mint lemonade",
            "wheat beer",
            "red wine",
            "iced matcha",
            "apple juice",
            "rooibos",
        ),
        (
            "The favourite drink of {name} is {value}.",
            "{name} always orders {value}.",
            "{name} likes {value} more than any other drink.",
        ),
        ("What is the favourite drink of {name}?", "What does {name} always order?"),
        (
            "Which beverage should I buy for {name}?",
            "What would {name} choose at the bar?",
            "With what shall I fill the cup of {name}?",
        ),
        ("{name} spilled {value} over the keyboard.", "{name} gave the guests {value}."),
        changing=True,
    ),
    Relation(
        "instrument",
        _words("cello trumpet violin harp clarinet accordion banjo flute drums oboe ukulele piano trombone saxophone"),
        (
            "{name} plays the {value}.",
            "{name} practises the {value} every evening.",
            "{name} has lessons on the {value}.",
        ),
        ("Which instrument does {name} play?", "On what does {name} practise every evening?"),
        (
            "What kind of musician is {name}?",
            "With what could {name} join our band?",
            "How does {name} make music?",
        ),
        ("{name} sold a {value} to a colleague.", "{name} complains about the neighbour with the {value}."),
    ),
    Relation(
        "hobby",
        (
            "rock climbing",
            "bird watching",
            "pottery",
            "chess",
            "beekeeping",
            "model trains",
            "calligraphy",
            "salsa dancing",
            "astronomy",
            "woodcarving",
            "fly fishing",
            "origami",
            "winter swimming",
            "archery",
            "knitting",
            "stamp collecting",
        ),
        (
            "The hobby of {name} is {value}.",
            "{name} spends every weekend on {value}.",
            "{name} is passionate about {value}.",
        ),
        ("What is the hobby of {name}?", "What is {name} passionate about?"),
        (
            "How does {name} like to relax?",
            "What does {name} do for fun?",
            "Which pastime fills the spare time of {name}?",
        ),
        ("{name} thinks that {value} is boring.", "{name} read a long article on {value}."),
    ),
    Relation(
        "language",
        _words("Portuguese Japanese Finnish Arabic Turkish Welsh Mandarin Greek Swahili Hungarian Korean Danish Hindi"),
        (
            "{name} is learning {value}.",
            "{name} takes an evening class in {value}.",
            "{name} has begun to study {value}.",
        ),
        ("What is {name} learning?", "In what does {name} take an evening class?"),
        (
            "Which foreign tongue does {name} try to speak?",
            "In what language does {name} hope to be fluent?",
            "Whose grammar is {name} struggling with?",
        ),
        ("{name} watched a film with subtitles in {value}.", "The landlord of {name} speaks {value}."),
    ),
    Relation(
        "vehicle",
        tuple(
            f"{colour} {kind}"
            for colour in ("red", "blue", "green", "white", "yellow")
            for kind in ("van", "pickup truck", "convertible", "cargo bike", "scooter", "motorcycle", "estate car")
        ),
        ("{name} drives a {value}.", "{name} owns a {value}.", "{name} bought a second-hand {value}."),
        ("What does {name} drive?", "What did {name} buy second-hand?"),
        (
            "How does {name} get around?",
            "Which means of transport does {name} use?",
            "What is parked in front of the house of {name}?",
        ),
        ("{name} was nearly hit by a {value}.", "{name} rented a {value} for the holidays."),
    ),
    Relation(
        "contact",
        (
            "e-mail",
            "text message",
            "a phone call",
            "video call",
            "a handwritten letter",
            "voice mail",
            "the team chat",
            "a visit in person",
        ),
        (
            "{name} prefers to be contacted by {value}.",
            "Contact {name} by {value}.",
            "{name} prefers {value} when there is news.",
        ),
        ("How does {name} prefer to be contacted?", "By what do I contact {name}?"),
        (
            "What is the best way to reach {name}?",
            "Through which channel does {name} want to hear from us?",
            "How do I get hold of {name} in an emergency?",
        ),
        ("{name} cancelled the appointment by {value}.", "{name} was annoyed by {value} at midnight."),
        changing=True,
    ),
    Relation(
        "partner",
        (),
        (
            "{name} is married to {value}.",
            "{value} is the spouse of {name}.",
            "The wedding of {name} and {value} took place by the sea.",
        ),
        ("Who is {name} married to?", "Who is the spouse of {name}?"),
        (
            "What is the husband or wife of {name} called?",
            "To whom did {name} say yes at the altar?",
            "Who is the better half of {name}?",
        ),
        ("{name} went to school with {value}.", "{name} borrowed a ladder from {value}."),
    ),
    Relation(
        "project",
        (),
        (
            "{name} works on {value}.",
            "{name} was assigned to {value}.",
            "{name} is a member of the team of {value}.",
        ),
        ("Which project does {name} work on?", "What was {name} assigned to?"),
        (
            "What keeps {name} busy at the office?",
            "In which initiative is {name} involved?",
            "To which undertaking does {name} contribute?",
        ),
        ("{name} wrote a critical review of {value}.", "{name} asked to be kept informed about {value}."),
    ),
    Relation(
        "school",
        PLACES,
        (
            "{name} studied at the University of {value}.",
            "{name} graduated from the University of {value}.",
        ),
        ("Where did {name} study?", "From which university did {name} graduate?"),
        (
            "What is the alma mater of {name}?",
            "Which college gave {name} a degree?",
            "Where was {name} educated?",
        ),
        ("{name} gave a guest lecture in {value}.", "{name} was rejected by the academy in {value}."),
    ),
    Relation(
        "birthday",
        (),
        ("{name} was born on {value}.", "The birthday of {name} is {value}."),
        ("When was {name} born?", "When is the birthday of {name}?"),
        (
            "On which day do we congratulate {name} with a cake?",
            "When does {name} turn a year older?",
        ),
        ("The passport of {name} expires on {value}.", "The lease of {name} began on {value}."),
    ),
)

PROJECT: Final = (
    Relation(
        "leader",
        (),
        ("{value} leads {name}.", "{name} is led by {value}.", "The leader of {name} is {value}."),
        ("Who leads {name}?", "Who is the leader of {name}?"),
        ("Who is in charge of {name}?", "To whom does the team of {name} report?", "Who manages {name}?"),
        ("{value} criticised the plan of {name}.", "{value} heard of {name} for the first time."),
    ),
    Relation(
        "deadline",
        (),
        ("{name} is due on {value}.", "The deadline of {name} is {value}."),
        ("When is {name} due?", "What is the deadline of {name}?"),
        ("By when must {name} be finished?", "On which day does {name} have to be delivered?"),
        ("{name} was announced on {value}.", "A workshop of {name} takes place on {value}."),
    ),
    Relation(
        "budget",
        tuple(f"{thousands},000 euros" for thousands in range(40, 960, 30)),
        ("{name} has a budget of {value}.", "The budget for {name} is {value}."),
        ("What is the budget of {name}?",),
        ("How much money may {name} spend?", "What is the financial limit of {name}?"),
        ("{name} saved {value} last year.", "A rival bid {value} against {name}."),
    ),
)

COMPANY: Final = (
    Relation(
        "headquarters",
        PLACES,
        ("{name} has its headquarters in {value}.", "The head office of {name} is in {value}."),
        ("Where is the head office of {name}?", "In which city does {name} have its headquarters?"),
        ("Where is {name} based?", "From where is {name} run?"),
        ("{name} closed a warehouse in {value}.", "{name} sponsors a football club in {value}."),
    ),
)

HAPPENINGS: Final = (
    Happening(
        "trip",
        PLACES,
        ("On {when} {name} travelled to {value}.", "{name} visited {value} on {when}."),
        ("{name} travelled to {value}.", "{name} visited {value}."),
        ("Where did {name} travel in {when}?", "Which city did {name} see in {when}?"),
    ),
    Happening(
        "purchase",
        _words("tent camera sofa bicycle telescope kettle carpet lawnmower wardrobe printer mattress sewing_machine"),
        ("On {when} {name} bought a new {value}.", "{name} paid for a {value} on {when}."),
        ("{name} bought a new {value}.", "{name} paid for a {value}."),
        ("What did {name} buy in {when}?", "On what did {name} spend money in {when}?"),
    ),
    Happening(
        "injury",
        _words("ankle wrist shoulder knee elbow thumb rib collarbone toe heel"),
        ("On {when} {name} injured the {value}.", "{name} hurt the {value} on {when}."),
        ("{name} injured the {value}.", "{name} hurt the {value}."),
        ("What did {name} injure in {when}?", "For which part of the body did {name} see a doctor in {when}?"),
    ),
)

CHAINS: Final = (
    Chain(
        "project",
        "leader",
        (
            "Who leads the project that {name} works on?",
            "Who is the boss of the project {name} was assigned to?",
        ),
    ),
    Chain(
        "project",
        "deadline",
        ("When is the project of {name} due?", "By when does the team of {name} have to deliver its project?"),
    ),
    Chain(
        "employer",
        "headquarters",
        (
            "In which city is the head office of the company {name} works for?",
            "Where is the employer of {name} based?",
        ),
    ),
    Chain(
        "partner",
        "allergy",
        ("What is the spouse of {name} allergic to?", "Which food must the husband or wife of {name} avoid?"),
    ),
    Chain(
        "partner",
        "profession",
        ("What is the profession of the spouse of {name}?", "How does the partner of {name} earn a living?"),
    ),
)

SMALL_TALK: Final = (
    "The printer on floor {number} is out of toner again.",
    "The weather in {place} was dreadful, with rain for {number} days.",
    "Meeting room {number} is closed because the ceiling drips.",
    "The canteen had a queue of {number} people on Monday.",
    "A parcel from {place} has been waiting at the desk for {number} days.",
    "The train to {place} was {number} minutes late.",
    "Somebody left {number} umbrellas at the entrance.",
    "The lift was repaired by {number} engineers from {place}.",
)
