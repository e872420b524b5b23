"""The world's vocabulary. Everything is listed from common to rare: a Zipf law over the order decides how often the
corpus speaks of it. Where a line gives several answers, the first is the usual one."""

WOMEN = """Anna Clara Lena Mira Nora Ida Rosa Vera Emma Olga Julia Sara Tina Ella Hanna Maria Lucy Zoe Greta Frida
Martha Edith Agnes Hilda"""
MEN = """Tom Otto Paul Ben Max Felix Hugo Karl Leo Adam Oscar Ivan Jack David Sam Noah Erik Carl Viktor Walter
Anton Emil Gustav Rufus"""
TOWNS = """Dunford Millbrook Fernley Greyport Larkfield Hillcrest Northam Kingsmere Arnwick Bellhaven Crowmoor
Eastbrook"""

# job: the outdoor work of the day
JOBS = {
    "farmer": "work in the field",
    "baker": "sell bread at the market",
    "fisherman": "row out on the lake",
    "teacher": "take the class to the park",
    "gardener": "plant the young trees",
    "postman": "bring the letters by bicycle",
    "painter": "paint the garden fence",
    "shepherd": "take the sheep up the hill",
    "builder": "repair the old roof",
    "driver": "drive the bus to the coast",
    "doctor": "visit the sick on foot",
    "musician": "play in the square",
    "hunter": "walk into the forest",
    "miller": "start the windmill",
    "sailor": "leave the harbour",
    "beekeeper": "open the hives",
}
# weather: how much it invites to such work, in nats
WEATHER = {
    "sunny": 2.4,
    "raining": -1.2,
    "windy": -0.1,
    "very cold": -1.0,
    "warm and calm": 2.0,
    "snowing": -1.7,
    "foggy": -0.5,
    "stormy": -2.6,
}
FEELING = {"feels well": 0.8, "feels tired": -0.6, "has a cold": -1.8, "is in a good mood": 1.3}

# animal kept by people: how gladly it eats each of FODDER, from -3 to 3
FODDER = ("hay", "meat", "corn", "fish", "apples", "cabbage", "bread", "worms")
PETS = {
    "dog": (-3, 3, -1, 1.5, -1.5, -2, 1, -2),
    "cat": (-3, 3, -2.5, 3, -3, -2.5, -1, -1.5),
    "horse": (3, -3, 2, -3, 3, 1, 1.5, -3),
    "hen": (-1.5, -1, 3, -1, 0.5, 1, 2, 2.5),
    "cow": (3, -3, 1.5, -3, 1.5, 2, 0.5, -3),
    "pig": (-0.5, 1, 3, 1, 2.5, 2, 2.5, 0.5),
    "goat": (2.5, -3, 1.5, -3, 2, 2.5, 1.5, -3),
    "rabbit": (2.5, -3, 0.5, -3, 1.5, 3, 0, -3),
    "duck": (-2, -0.5, 2.5, 1, -0.5, 0.5, 2, 2.5),
    "parrot": (-2.5, -2, 2, -2.5, 2.5, 0.5, 1, -0.5),
    "hedgehog": (-3, 1.5, -1, 0.5, 0.5, -1, 0, 3),
    "turtle": (-0.5, -0.5, -1, 1, 1, 2.5, -0.5, 1.5),
}

# animal: where it lives; what it eats
ANIMALS = {
    "fox": ("in the forest, in the grassland, in the mountains", "mice, berries, birds"),
    "bear": ("in the forest, in the mountains, on the ice", "berries, fish, honey"),
    "owl": ("in the forest, in an old barn", "mice, insects, birds"),
    "frog": ("in the pond, in the river", "insects, worms"),
    "squirrel": ("in the forest, in the garden", "nuts, seeds"),
    "wolf": ("in the mountains, in the forest", "deer, mice"),
    "deer": ("in the forest, in the grassland", "leaves, grass"),
    "mouse": ("in an old barn, in the garden, in the grassland", "seeds, nuts, bread"),
    "heron": ("in the river, in the pond", "fish, frogs"),
    "shark": ("in the sea, in the river", "fish, birds"),
    "bee": ("in the garden, in the forest", "honey, fruit"),
    "eagle": ("in the mountains, in the sea", "mice, fish"),
    "otter": ("in the river, in the sea, in the pond", "fish, frogs"),
    "mole": ("under the ground, in the garden", "worms, insects"),
    "camel": ("in the desert, in the grassland", "grass, leaves"),
    "lion": ("in the grassland, in the desert", "deer, birds"),
    "penguin": ("on the ice, in the sea", "fish, insects"),
    "snake": ("in the desert, in the grassland, in the river", "mice, frogs"),
    "whale": ("in the sea, on the ice", "fish, plants"),
    "bat": ("in an old barn, in a cave", "insects, fruit"),
    "seal": ("on the ice, in the sea", "fish, birds"),
    "monkey": ("in the forest, in the mountains", "fruit, nuts, leaves"),
    "hare": ("in the grassland, in the garden", "grass, leaves"),
    "spider": ("in an old barn, in the garden, in a cave", "insects, worms"),
    "crab": ("in the sea, in the river", "plants, worms"),
    "badger": ("under the ground, in the forest", "worms, berries"),
    "lizard": ("in the desert, in the mountains", "insects, seeds"),
    "swan": ("in the pond, in the river", "plants, grass"),
    "beaver": ("in the river, in the pond", "leaves, plants"),
    "salmon": ("in the river, in the sea", "insects, plants"),
    "stork": ("in the grassland, in the pond", "frogs, mice"),
    "marmot": ("in the mountains, under the ground", "grass, seeds"),
}
# thing: what it is made of
THINGS = {
    "window": "glass, wood",
    "table": "wood, stone, glass",
    "key": "iron, silver",
    "candle": "wax",
    "book": "paper, leather",
    "coat": "wool, leather",
    "shoe": "leather, wool",
    "cup": "clay, glass, silver",
    "ring": "silver, iron",
    "bridge": "stone, iron, wood",
    "boat": "wood, iron",
    "hammer": "iron, wood",
    "wall": "stone, clay",
    "chair": "wood, iron",
    "bottle": "glass, clay",
    "rope": "straw, wool",
    "roof": "straw, clay, wood",
    "spoon": "silver, wood, iron",
    "bag": "leather, straw",
    "kite": "paper, wood",
    "bell": "iron, silver",
    "hat": "straw, wool, leather",
    "statue": "stone, clay, silver",
    "doll": "wood, wool, straw",
}
# what people do: the season for it
SEASONS = {
    "swim in the lake": "in summer, in autumn",
    "pick apples": "in autumn, in summer",
    "build a snowman": "in winter",
    "plant potatoes": "in spring, in autumn",
    "skate on the pond": "in winter, in spring",
    "gather nuts": "in autumn, in winter",
    "cut the hay": "in summer, in spring",
    "pick cherries": "in summer, in spring",
    "wash the winter coats": "in spring, in summer",
    "look for mushrooms": "in autumn, in summer",
    "shear the sheep": "in spring, in summer",
    "press the grapes": "in autumn",
    "chop wood for the stove": "in winter, in autumn",
    "sleep in a tent": "in summer, in spring",
    "watch the birds come back": "in spring",
    "ride a sledge": "in winter",
}
# work: the place for it
WORKPLACES = {
    "bake bread": "in a bakery, in a kitchen",
    "teach children": "in a school, in a library",
    "sell shoes": "in a shop, at the market",
    "heal the sick": "in a hospital, in a school",
    "repair carts": "in a workshop, on a farm",
    "keep cows": "on a farm, at the market",
    "lend books": "in a library, in a school",
    "unload ships": "at the harbour, at the station",
    "sell tickets": "at the station, in a theatre",
    "grind corn": "in a mill, on a farm",
    "cook dinner": "in a kitchen, in a hospital",
    "play music": "in a theatre, at the market, in a school",
    "cut boards": "in a workshop, in a mill",
    "sell fish": "at the market, at the harbour, in a shop",
    "weave cloth": "in a workshop, in a mill",
    "keep old letters": "in a library, in a theatre",
}

# material: things of it; what can become of them and how readily
MATERIALS = {
    "wood": ("wooden box, wooden spoon, wooden toy", {"burn to ashes": 8, "float on the water": 6, "crack open": 2}),
    "iron": ("iron key, iron nail, iron pot", {"rust slowly": 7, "sink to the bottom": 6, "become very hot": 5}),
    "glass": ("glass jar, glass bowl", {"break into pieces": 8, "sink to the bottom": 4, "become very hot": 2}),
    "paper": ("paper map, newspaper", {"burn to ashes": 9, "become wet and heavy": 5, "fade and turn pale": 5}),
    "wool": ("wool coat, wool blanket", {"become wet and heavy": 7, "burn to ashes": 3, "fade and turn pale": 4}),
    "wax": ("wax candle, piece of wax", {"melt away": 9, "float on the water": 4, "crack open": 1}),
    "clay": ("clay pot, clay cup", {"break into pieces": 6, "crack open": 4, "become very hot": 3}),
    "leather": ("leather boot, leather bag", {"become wet and heavy": 4, "crack open": 4, "fade and turn pale": 3}),
    "ice": ("block of ice, piece of ice", {"melt away": 12, "break into pieces": 3, "float on the water": 5}),
    "butter": ("piece of butter", {"melt away": 8, "freeze hard": 4, "float on the water": 2}),
    "stone": ("flat stone, round stone", {"sink to the bottom": 8, "become very hot": 4, "crack open": 1}),
    "fruit": ("ripe apple, ripe pear", {"rot and smell bad": 8, "float on the water": 4, "freeze hard": 4}),
}
# place: how strongly it calls for each outcome
PLACES = {
    "in the rain": {"rust slowly": 6, "become wet and heavy": 8, "rot and smell bad": 2, "melt away": 1},
    "in the sun": {
        "melt away": 5,
        "fade and turn pale": 6,
        "become very hot": 3,
        "crack open": 3,
        "rot and smell bad": 3,
    },
    "in the fire": {"burn to ashes": 9, "become very hot": 6, "melt away": 6, "crack open": 2},
    "in the river": {"sink to the bottom": 6, "float on the water": 6, "become wet and heavy": 4, "rust slowly": 1},
    "in the snow": {"freeze hard": 8, "become wet and heavy": 3, "rust slowly": 2, "crack open": 2},
    "on top of a high wall": {
        "break into pieces": 6,
        "fade and turn pale": 3,
        "crack open": 2,
        "become wet and heavy": 1,
    },
    "in a damp cellar": {"rust slowly": 5, "rot and smell bad": 8, "become wet and heavy": 3, "crack open": 1},
    "under a heavy cart": {"break into pieces": 9, "crack open": 4, "sink to the bottom": 1},
}
UNCHANGED = "stay just as it was"
DURATIONS = {"for a whole week": 0.8, "for a day": 2.5, "for an hour": 6.0, "for a year": 0.2}

# goal: what people use for it
GOALS = {
    "cut a slice of bread": "a knife, a saw, a string",
    "carry water from the well": "a bucket, a jar, a barrel",
    "light the dark cellar": "a candle, a lantern, a match",
    "keep the soup warm": "a blanket, a stove, a lid",
    "dry the wet shirt": "a line, a stove, a towel",
    "drive a nail into the wall": "a hammer, a stone, a shoe",
    "clean the kitchen floor": "a mop, a broom, a sponge",
    "open the old wooden box": "a key, a hammer, a knife",
    "reach the apples on the tree": "a ladder, a pole, a chair",
    "dig a hole in the garden": "a spade, a spoon, a rake",
    "cross the wide river": "a boat, a raft, a rope",
    "fasten the horse to the fence": "a rope, a chain, a belt",
    "sweep the dry leaves": "a broom, a rake, a branch",
    "mend the torn coat": "a needle, a pin, a patch",
    "stir the hot soup": "a spoon, a fork, a stick",
    "cut down the dead tree": "an axe, a saw, a knife",
    "catch a fish in the lake": "a net, a hook, a basket",
    "send news to a friend": "a letter, a bell, a pigeon",
    "keep the door open": "a stone, a chair, a rope",
    "gather the fallen plums": "a basket, a sack, a bucket",
    "see the ship far away": "a telescope, a mirror, a lamp",
    "measure the long table": "a ruler, a string, a stick",
    "call the children to dinner": "a bell, a whistle, a drum",
    "fill the hole in the roof": "a board, a patch, a sack",
    "weigh the sack of corn": "a scale, a beam, a barrel",
    "polish the silver spoon": "a cloth, a brush, a sponge",
    "scare the birds from the field": "a drum, a kite, a whistle",
    "move the heavy stone": "a cart, a pole, a chain",
    "hold the papers together": "a pin, a string, a clip",
    "peel the potatoes": "a knife, a brush, a spoon",
    "stay dry in the rain": "an umbrella, a coat, a sack",
    "find the way at night": "a lantern, a map, a compass",
}
SUFFIXES = ("and work slowly", "and take great care", "and ask a friend to help")

# what somebody wants: bias to success; how it ends well; how it ends badly
WISHES = {
    "win the race": (-0.2, "won the race", "lost the race"),
    "bake a cake for the fair": (0.5, "sold every piece of the cake", "burned the cake"),
    "build a small boat": (-0.3, "sailed across the lake", "watched the boat sink"),
    "learn to play the violin": (-0.2, "played well at the concert", "put the violin away for ever"),
    "pass the test at school": (0.4, "passed the test", "failed the test"),
    "catch a big fish": (-0.4, "brought home a big fish", "came home with an empty basket"),
    "find the lost dog": (0.3, "found the dog near the mill", "never saw the dog again"),
    "grow the largest pumpkin": (-0.5, "got the first prize", "got no prize at all"),
    "repair the old clock": (0.1, "made the clock run again", "threw the clock away"),
    "climb the high mountain": (-0.5, "stood on the top at noon", "turned back half way"),
    "sell the old house": (0.2, "found a buyer for the house", "had to keep the house"),
    "reach the evening train": (0.3, "sat in the train in time", "missed the train"),
    "write a song": (0.0, "heard everybody sing the song", "tore the song to pieces"),
    "paint the whole house": (0.2, "finished the last wall", "left the work half done"),
    "tame the wild horse": (-0.6, "rode the horse through the town", "fell off the horse"),
    "open a little shop": (-0.1, "had many guests on the first day", "closed the shop after a month"),
}
EFFORTS = {
    "{He} practised hard every single day.": 1.7,
    "{He} made a careful plan.": 1.0,
    "{He} asked an old friend for advice.": 0.7,
    "{He} began a little late.": -0.5,
    "{He} thought about it only now and then.": -1.0,
    "{He} was too lazy to prepare.": -2.0,
}
EVENTS = {
    "At first everything went well.": 0.7,
    "Then a storm came over the town.": -0.9,
    "{His} sister came to help.": 1.2,
    "Then {he} fell and hurt {his} arm.": -1.6,
    "{His} neighbour lent {him} good tools.": 0.9,
    "Nobody believed in {him}.": -0.4,
    "On that morning {he} woke up too late.": -1.2,
    "The day was bright and calm.": 0.6,
}
GLAD = ("and was very happy", "and laughed with joy", "and told everybody about it")
SAD = ("and was very sad", "and felt ashamed", "and did not want to talk about it")

# what somebody does: the next step when it goes on well, is forgotten, goes wrong, or is shared
ACTIVITIES = {
    "baking bread in the kitchen": (
        "puts the dough into the hot oven and waits at the table",
        "leaves the dough on the warm stove and goes out into the garden",
        "drops the bowl on the floor and spills the flour everywhere",
        "calls the children and lets them shape the little loaves",
    ),
    "washing clothes by the river": (
        "wrings the clean shirts and hangs them on the long line",
        "sits down in the grass and looks at the passing boats",
        "slips on a wet stone and falls into the cold water",
        "asks the neighbours to wash the heavy sheets together",
    ),
    "painting the old fence": (
        "dips the brush into the white paint and starts on the gate",
        "puts the brush away and watches the birds in the tree",
        "knocks over the full bucket and paints the grass white",
        "gives a second brush to a boy who wants to help",
    ),
    "feeding the animals in the barn": (
        "fills the trough with corn and brushes the brown horse",
        "leaves the door wide open and walks back to the house",
        "steps on the rake and drops the eggs on the ground",
        "shows the young goats to the children from the village",
    ),
    "planting flowers in the garden": (
        "digs a row of small holes and waters every plant",
        "lays the spade in the shade and falls asleep on the bench",
        "breaks the thin stems and cuts one finger on the spade",
        "brings some of the seeds to the old woman next door",
    ),
    "cooking soup for dinner": (
        "cuts the carrots into the pot and stirs with a long spoon",
        "lets the pot boil and reads the newspaper by the window",
        "burns both hands on the pot and spills the soup",
        "fills the bowls of all the guests at the long table",
    ),
    "repairing a bicycle in the yard": (
        "tightens the loose chain and tries the brakes on the road",
        "puts the wheel into a corner and talks about the weather",
        "bends the front wheel and loses two of the small screws",
        "explains every part of the machine to a curious girl",
    ),
    "packing a bag for the journey": (
        "folds the shirts with care and puts the map on top",
        "leaves the ticket on the shelf and locks the front door",
        "tears the old bag and drops the glasses on the stairs",
        "gives the warm scarf to a friend who has to travel too",
    ),
    "cutting wood behind the house": (
        "splits the thick logs and piles them up along the wall",
        "rests the axe against the tree and smokes a pipe",
        "misses the log and breaks the handle of the axe",
        "carries half of the wood to the family across the road",
    ),
    "sewing a dress by the window": (
        "threads the thin needle and sews the blue sleeves on",
        "puts the cloth into the drawer and makes a cup of tea",
        "cuts the cloth too short and pricks one thumb badly",
        "lets the little sister choose the ribbon and the buttons",
    ),
    "picking apples in the orchard": (
        "climbs the tall ladder and lays the red apples in the basket",
        "eats one of the apples and lies down under the tree",
        "shakes the ladder and falls down with the full basket",
        "offers the sweetest apples to the people on the road",
    ),
    "building a hut in the forest": (
        "ties the long branches together and covers the roof with leaves",
        "follows a small path and picks berries for an hour",
        "pulls at the wrong branch and the whole wall falls down",
        "invites the other children to sit in the dry hut",
    ),
    "cleaning the school room": (
        "wipes the tables with a wet cloth and sweeps the floor",
        "leans the broom on the wall and draws on the board",
        "tips over the bucket and floods the wooden floor",
        "shares the work with the girls from the first row",
    ),
    "rowing a boat on the lake": (
        "pulls the oars evenly and steers for the far shore",
        "lets the boat drift and counts the clouds in the sky",
        "loses one of the oars and hits the rocks with a bang",
        "takes two tired walkers on board and rows them across",
    ),
    "writing a letter at the desk": (
        "fills three pages with news and closes the envelope",
        "lays down the pen and looks for a long time at the rain",
        "tips the ink over the paper and ruins the new table cloth",
        "reads the best lines aloud to the whole family",
    ),
    "making cheese on the farm": (
        "warms the fresh milk and presses it through a cloth",
        "goes to look for the cat and forgets the time",
        "pours the milk beside the pan and slides on the floor",
        "cuts the first cheese for the workers in the yard",
    ),
}
# how somebody is: weights of going on well, forgetting, going wrong, sharing
MANNERS = {
    "is careful and has plenty of time": (20, 1.5, 0.3, 2),
    "is tired after a long day": (1.5, 12, 3, 0.5),
    "is in a great hurry": (2, 0.8, 14, 0.3),
    "is in a friendly mood": (3, 0.6, 0.4, 16),
    "does this for the first time": (2.5, 0.6, 8, 1),
    "is thinking of something else": (1, 16, 2, 0.4),
    "is very good at it": (22, 0.8, 0.2, 3),
}
# what follows each of the four
SEQUELS = (
    ("until the work is done", "and hums an old song", "and is proud of the result"),
    ("until it is almost dark", "and does not think of the work", "without any worry"),
    ("and has to begin again", "and cries out loud", "and feels like a fool"),
    ("and everybody says thank you", "because it is more fun together", "and they laugh a lot"),
)
