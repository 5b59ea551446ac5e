class Annotated:
    def __init__(self, *a):
        pass
