! boreas for Fortran programs: boreas.h with Fortran types, texts and communicators. Fortran 2008.
!
! Every procedure takes an optional `status`; without it an error ends the program with its sentence, with it
! boreas_message() gives the sentence. Sizes and cells are int64; cells, samples and times count from 0 as in boreas.h.
module boreas
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: int64, real32, real64
  implicit none
  private
  public :: boreas_model, boreas_state, boreas_message, boreas_date, boreas_date_text
  public :: boreas_model_info, boreas_variable_info, boreas_training_result

  integer, parameter, public :: boreas_ok = 0
  integer(c_int32_t), parameter, public :: boreas_prognostic = 0, boreas_forcing = 1, boreas_diagnostic = 2
  integer(c_int32_t), parameter, public :: boreas_auto = 0, boreas_cpu = 1, boreas_cuda = 2

  type, bind(c) :: model_options
    integer(c_size_t) :: struct_size = 0
    integer(c_int32_t) :: device = 0, training = 0
    type(c_ptr) :: mpi_comm = c_null_ptr
    integer(c_int32_t) :: has_fortran_comm = 0, fortran_comm = 0
    integer(c_int64_t) :: memory_budget = 0
    type(c_funptr) :: log = c_null_funptr
    type(c_ptr) :: log_user = c_null_ptr
  end type

  type, bind(c) :: boreas_model_info
    integer(c_size_t) :: struct_size = 0
    integer(c_int64_t) :: num_variables = 0, num_cells = 0, num_local_cells = 0, first_cell = 0
    integer(c_int64_t) :: num_input_times = 0, num_output_times = 0, step_seconds = 0, step_months = 0
    integer(c_int64_t) :: num_parameters = 0, grid_rank = 0, grid_shape(4) = 0
    integer(c_int32_t) :: rank = 0, num_ranks = 0, cuda_device = 0, training = 0
    integer(c_int64_t) :: batch_size = 0, max_rollout = 0, num_updates = 0
  end type

  type, bind(c) :: variable_info
    integer(c_size_t) :: struct_size = 0
    type(c_ptr) :: name = c_null_ptr, units = c_null_ptr
    integer(c_int32_t) :: role = 0, is_computed = 0, is_constant = 0, has_level = 0
    real(c_double) :: level = 0, mean = 0, stdev = 0, minimum = 0, maximum = 0
  end type

  type :: boreas_variable_info
    character(len=:), allocatable :: name, units
    integer(c_int32_t) :: role = 0
    logical :: is_computed = .false., is_constant = .false., has_level = .false.
    real(c_double) :: level = 0, mean = 0, stdev = 0, minimum = 0, maximum = 0
  end type

  type, bind(c) :: field
    integer(c_size_t) :: struct_size = 0
    type(c_ptr) :: name = c_null_ptr, units = c_null_ptr
    integer(c_int32_t) :: dtype = 0, location = 0
    integer(c_int64_t) :: count = 0, stride = 0
    type(c_ptr) :: data = c_null_ptr
  end type

  type, bind(c) :: training_options
    integer(c_size_t) :: struct_size = 0
    integer(c_int64_t) :: rollout = 0
    real(c_double) :: learning_rate = 0
  end type

  type, bind(c) :: boreas_training_result
    integer(c_size_t) :: struct_size = 0
    real(c_double) :: loss = 0, gradient_norm = 0, seconds = 0
    integer(c_int64_t) :: num_updates = 0
  end type

  type :: boreas_model
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: open => model_open
    procedure :: close => model_close
    procedure :: describe => model_describe
    procedure :: variable => model_variable
    procedure :: coordinates => model_coordinates
    procedure :: set_cells => model_set_cells
    procedure, private :: set_sample_32, set_sample_64
    generic :: set_sample => set_sample_32, set_sample_64
    procedure :: train => model_train
    procedure :: save => model_save
  end type

  type :: boreas_state
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: open => state_open
    procedure :: close => state_close
    procedure :: begin => state_begin
    procedure, private :: set_32, set_64, read_32, read_64
    generic :: set => set_32, set_64
    generic :: read => read_32, read_64
    procedure :: step => state_step
    procedure :: rollout => state_rollout
    procedure :: date => state_date
  end type

  interface
    function c_error() bind(c, name="boreas_error") result(text)
      import :: c_ptr
      type(c_ptr) :: text
    end function
    integer(c_int) function c_parse_date(text, date) bind(c, name="boreas_parse_date")
      import :: c_int, c_char, c_int64_t
      character(kind=c_char), intent(in) :: text(*)
      integer(c_int64_t), intent(out) :: date
    end function
    integer(c_int) function c_format_date(date, text, size) bind(c, name="boreas_format_date")
      import :: c_int, c_char, c_int64_t, c_size_t
      integer(c_int64_t), value :: date
      character(kind=c_char), intent(out) :: text(*)
      integer(c_size_t), value :: size
    end function
    integer(c_int) function c_open(checkpoint, options, model) bind(c, name="boreas_model_open")
      import :: c_int, c_char, c_ptr, model_options
      character(kind=c_char), intent(in) :: checkpoint(*)
      type(model_options), intent(in) :: options
      type(c_ptr), intent(out) :: model
    end function
    integer(c_int) function c_close(model) bind(c, name="boreas_model_close")
      import :: c_int, c_ptr
      type(c_ptr), value :: model
    end function
    integer(c_int) function c_describe(model, info) bind(c, name="boreas_model_describe")
      import :: c_int, c_ptr, boreas_model_info
      type(c_ptr), value :: model
      type(boreas_model_info), intent(inout) :: info
    end function
    integer(c_int) function c_variable(model, index, info) bind(c, name="boreas_model_variable")
      import :: c_int, c_ptr, c_int64_t, variable_info
      type(c_ptr), value :: model
      integer(c_int64_t), value :: index
      type(variable_info), intent(inout) :: info
    end function
    integer(c_int) function c_coordinates(model, latitudes, longitudes, count) bind(c, name="boreas_model_coordinates")
      import :: c_int, c_ptr, c_int64_t, c_double
      type(c_ptr), value :: model
      real(c_double), intent(out) :: latitudes(*), longitudes(*)
      integer(c_int64_t), value :: count
    end function
    integer(c_int) function c_set_cells(model, cells, count) bind(c, name="boreas_model_set_cells")
      import :: c_int, c_ptr, c_int64_t
      type(c_ptr), value :: model
      integer(c_int64_t), intent(in) :: cells(*)
      integer(c_int64_t), value :: count
    end function
    integer(c_int) function c_training_set(model, sample, time, values) bind(c, name="boreas_training_set")
      import :: c_int, c_ptr, c_int64_t, field
      type(c_ptr), value :: model
      integer(c_int64_t), value :: sample, time
      type(field), intent(in) :: values
    end function
    integer(c_int) function c_training_step(model, options, result) bind(c, name="boreas_training_step")
      import :: c_int, c_ptr, training_options, boreas_training_result
      type(c_ptr), value :: model
      type(training_options), intent(in) :: options
      type(boreas_training_result), intent(inout) :: result
    end function
    integer(c_int) function c_save(model, path) bind(c, name="boreas_model_save")
      import :: c_int, c_ptr, c_char
      type(c_ptr), value :: model
      character(kind=c_char), intent(in) :: path(*)
    end function
    integer(c_int) function c_state_open(model, options, state) bind(c, name="boreas_state_open")
      import :: c_int, c_ptr
      type(c_ptr), value :: model, options
      type(c_ptr), intent(out) :: state
    end function
    integer(c_int) function c_state_close(state) bind(c, name="boreas_state_close")
      import :: c_int, c_ptr
      type(c_ptr), value :: state
    end function
    integer(c_int) function c_begin(state, date) bind(c, name="boreas_state_begin")
      import :: c_int, c_ptr, c_int64_t
      type(c_ptr), value :: state
      integer(c_int64_t), value :: date
    end function
    integer(c_int) function c_set(state, date, values) bind(c, name="boreas_state_set")
      import :: c_int, c_ptr, c_int64_t, field
      type(c_ptr), value :: state
      integer(c_int64_t), value :: date
      type(field), intent(in) :: values
    end function
    integer(c_int) function c_step(state) bind(c, name="boreas_state_step")
      import :: c_int, c_ptr
      type(c_ptr), value :: state
    end function
    integer(c_int) function c_rollout(state, num_steps) bind(c, name="boreas_state_rollout")
      import :: c_int, c_ptr, c_int64_t
      type(c_ptr), value :: state
      integer(c_int64_t), value :: num_steps
    end function
    integer(c_int) function c_date(state, date) bind(c, name="boreas_state_date")
      import :: c_int, c_ptr, c_int64_t
      type(c_ptr), value :: state
      integer(c_int64_t), intent(out) :: date
    end function
    integer(c_int) function c_read(state, date, values) bind(c, name="boreas_state_read")
      import :: c_int, c_ptr, c_int64_t, field
      type(c_ptr), value :: state
      integer(c_int64_t), value :: date
      type(field), intent(in) :: values
    end function
    integer(c_size_t) function c_strlen(text) bind(c, name="strlen")
      import :: c_size_t, c_ptr
      type(c_ptr), value :: text
    end function
  end interface

contains

  function text_of(pointer) result(text)
    type(c_ptr), intent(in) :: pointer
    character(len=:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    integer :: i, length
    length = int(c_strlen(pointer))
    allocate (character(len=length) :: text)
    call c_f_pointer(pointer, letters, [length])
    do i = 1, length
      text(i:i) = letters(i)
    end do
  end function

  ! What went wrong in the last call of this thread.
  function boreas_message() result(text)
    character(len=:), allocatable :: text
    text = text_of(c_error())
  end function

  subroutine finish(code, status)
    integer(c_int), intent(in) :: code
    integer, intent(out), optional :: status
    if (present(status)) then
      status = int(code)
    else if (code /= boreas_ok) then
      write (*, "(a)") "boreas: "//boreas_message()
      error stop 1
    end if
  end subroutine

  ! "2020-01-31T06" to seconds since 1970-01-01T00:00:00 UTC, and back.
  function boreas_date(text, status) result(date)
    character(len=*), intent(in) :: text
    integer, intent(out), optional :: status
    integer(int64) :: date
    call finish(c_parse_date(trim(text)//c_null_char, date), status)
  end function

  function boreas_date_text(date, status) result(text)
    integer(int64), intent(in) :: date
    integer, intent(out), optional :: status
    character(len=19) :: text
    character(kind=c_char) :: letters(20)
    integer :: i
    text = ""
    letters = c_null_char
    call finish(c_format_date(date, letters, 20_c_size_t), status)
    do i = 1, 19
      if (letters(i) /= c_null_char) text(i:i) = letters(i)
    end do
  end function

  ! comm: an MPI communicator as Fortran programs hold it (of the module mpi_f08: comm%mpi_val). Collective.
  subroutine model_open(self, checkpoint, comm, training, device, memory_budget, status)
    class(boreas_model), intent(inout) :: self
    character(len=*), intent(in) :: checkpoint
    integer, intent(in), optional :: comm
    logical, intent(in), optional :: training
    integer(c_int32_t), intent(in), optional :: device
    integer(int64), intent(in), optional :: memory_budget
    integer, intent(out), optional :: status
    type(model_options) :: options
    options%struct_size = c_sizeof(options)
    if (present(comm)) then
      options%has_fortran_comm = 1
      options%fortran_comm = int(comm, c_int32_t)
    end if
    if (present(training)) options%training = merge(1_c_int32_t, 0_c_int32_t, training)
    if (present(device)) options%device = device
    if (present(memory_budget)) options%memory_budget = memory_budget
    call finish(c_open(trim(checkpoint)//c_null_char, options, self%handle), status)
  end subroutine

  subroutine model_close(self, status)
    class(boreas_model), intent(inout) :: self
    integer, intent(out), optional :: status
    call finish(c_close(self%handle), status)
    self%handle = c_null_ptr
  end subroutine

  function model_describe(self, status) result(info)
    class(boreas_model), intent(in) :: self
    integer, intent(out), optional :: status
    type(boreas_model_info) :: info
    info%struct_size = c_sizeof(info)
    call finish(c_describe(self%handle, info), status)
  end function

  ! index: 0 to num_variables - 1.
  function model_variable(self, index, status) result(info)
    class(boreas_model), intent(in) :: self
    integer(int64), intent(in) :: index
    integer, intent(out), optional :: status
    type(boreas_variable_info) :: info
    type(variable_info) :: raw
    integer(c_int) :: code
    raw%struct_size = c_sizeof(raw)
    code = c_variable(self%handle, index, raw)
    call finish(code, status)
    if (code /= boreas_ok) return
    info%name = text_of(raw%name)
    info%units = text_of(raw%units)
    info%role = raw%role
    info%is_computed = raw%is_computed /= 0
    info%is_constant = raw%is_constant /= 0
    info%has_level = raw%has_level /= 0
    info%level = raw%level
    info%mean = raw%mean
    info%stdev = raw%stdev
    info%minimum = raw%minimum
    info%maximum = raw%maximum
  end function

  ! Degrees, of all cells of the grid.
  subroutine model_coordinates(self, latitudes, longitudes, status)
    class(boreas_model), intent(in) :: self
    real(real64), intent(out) :: latitudes(:), longitudes(:)
    integer, intent(out), optional :: status
    real(c_double), allocatable :: lat(:), lon(:)
    integer(int64) :: count
    count = min(size(latitudes, kind=int64), size(longitudes, kind=int64))
    allocate (lat(count), lon(count))
    call finish(c_coordinates(self%handle, lat, lon, count), status)
    latitudes(:count) = lat
    longitudes(:count) = lon
  end subroutine

  ! Global numbers, from 0, of the cells that this rank has. Collective.
  subroutine model_set_cells(self, cells, status)
    class(boreas_model), intent(inout) :: self
    integer(int64), intent(in) :: cells(:)
    integer, intent(out), optional :: status
    call finish(c_set_cells(self%handle, cells, size(cells, kind=int64)), status)
  end subroutine

  subroutine set_sample_32(self, sample, time, name, values, status)
    class(boreas_model), intent(inout) :: self
    integer(int64), intent(in) :: sample, time
    character(len=*), intent(in) :: name
    real(real32), intent(in), contiguous, target :: values(:)
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: c_name
    c_name = trim(name)//c_null_char
    call finish(c_training_set(self%handle, sample, time, &
                               field_of(c_loc(c_name), 0_c_int32_t, size(values, kind=int64), c_loc(values))), status)
  end subroutine

  subroutine set_sample_64(self, sample, time, name, values, status)
    class(boreas_model), intent(inout) :: self
    integer(int64), intent(in) :: sample, time
    character(len=*), intent(in) :: name
    real(real64), intent(in), contiguous, target :: values(:)
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: c_name
    c_name = trim(name)//c_null_char
    call finish(c_training_set(self%handle, sample, time, &
                               field_of(c_loc(c_name), 1_c_int32_t, size(values, kind=int64), c_loc(values))), status)
  end subroutine

  ! One update. Collective.
  function model_train(self, rollout, learning_rate, status) result(result)
    class(boreas_model), intent(inout) :: self
    integer(int64), intent(in), optional :: rollout
    real(real64), intent(in), optional :: learning_rate
    integer, intent(out), optional :: status
    type(boreas_training_result) :: result
    type(training_options) :: options
    options%struct_size = c_sizeof(options)
    if (present(rollout)) options%rollout = rollout
    if (present(learning_rate)) options%learning_rate = learning_rate
    result%struct_size = c_sizeof(result)
    call finish(c_training_step(self%handle, options, result), status)
  end function

  subroutine model_save(self, path, status)
    class(boreas_model), intent(inout) :: self
    character(len=*), intent(in) :: path
    integer, intent(out), optional :: status
    call finish(c_save(self%handle, trim(path)//c_null_char), status)
  end subroutine

  subroutine state_open(self, model, status)
    class(boreas_state), intent(inout) :: self
    type(boreas_model), intent(in) :: model
    integer, intent(out), optional :: status
    call finish(c_state_open(model%handle, c_null_ptr, self%handle), status)
  end subroutine

  subroutine state_close(self, status)
    class(boreas_state), intent(inout) :: self
    integer, intent(out), optional :: status
    call finish(c_state_close(self%handle), status)
    self%handle = c_null_ptr
  end subroutine

  subroutine state_begin(self, start_date, status)
    class(boreas_state), intent(inout) :: self
    integer(int64), intent(in) :: start_date
    integer, intent(out), optional :: status
    call finish(c_begin(self%handle, start_date), status)
  end subroutine

  function field_of(name, dtype, count, data) result(made)
    type(c_ptr), intent(in) :: name, data
    integer(c_int32_t), intent(in) :: dtype
    integer(int64), intent(in) :: count
    type(field) :: made
    made%struct_size = c_sizeof(made)
    made%name = name
    made%dtype = dtype
    made%count = count
    made%data = data
  end function

  subroutine set_32(self, date, name, values, status)
    class(boreas_state), intent(inout) :: self
    integer(int64), intent(in) :: date
    character(len=*), intent(in) :: name
    real(real32), intent(in), contiguous, target :: values(:)
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: c_name
    c_name = trim(name)//c_null_char
    call finish(c_set(self%handle, date, &
                      field_of(c_loc(c_name), 0_c_int32_t, size(values, kind=int64), c_loc(values))), status)
  end subroutine

  subroutine set_64(self, date, name, values, status)
    class(boreas_state), intent(inout) :: self
    integer(int64), intent(in) :: date
    character(len=*), intent(in) :: name
    real(real64), intent(in), contiguous, target :: values(:)
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: c_name
    c_name = trim(name)//c_null_char
    call finish(c_set(self%handle, date, &
                      field_of(c_loc(c_name), 1_c_int32_t, size(values, kind=int64), c_loc(values))), status)
  end subroutine

  subroutine read_32(self, date, name, values, status)
    class(boreas_state), intent(inout) :: self
    integer(int64), intent(in) :: date
    character(len=*), intent(in) :: name
    real(real32), intent(out), contiguous, target :: values(:)
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: c_name
    c_name = trim(name)//c_null_char
    call finish(c_read(self%handle, date, &
                       field_of(c_loc(c_name), 0_c_int32_t, size(values, kind=int64), c_loc(values))), status)
  end subroutine

  subroutine read_64(self, date, name, values, status)
    class(boreas_state), intent(inout) :: self
    integer(int64), intent(in) :: date
    character(len=*), intent(in) :: name
    real(real64), intent(out), contiguous, target :: values(:)
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: c_name
    c_name = trim(name)//c_null_char
    call finish(c_read(self%handle, date, &
                       field_of(c_loc(c_name), 1_c_int32_t, size(values, kind=int64), c_loc(values))), status)
  end subroutine

  ! Collective.
  subroutine state_step(self, status)
    class(boreas_state), intent(inout) :: self
    integer, intent(out), optional :: status
    call finish(c_step(self%handle), status)
  end subroutine

  subroutine state_rollout(self, num_steps, status)
    class(boreas_state), intent(inout) :: self
    integer(int64), intent(in) :: num_steps
    integer, intent(out), optional :: status
    call finish(c_rollout(self%handle, num_steps), status)
  end subroutine

  function state_date(self, status) result(date)
    class(boreas_state), intent(in) :: self
    integer, intent(out), optional :: status
    integer(int64) :: date
    call finish(c_date(self%handle, date), status)
  end function

end module
