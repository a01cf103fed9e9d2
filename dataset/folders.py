"""placeholder"""
def read_validation(*a): raise NotImplementedError
